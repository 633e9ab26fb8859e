"""Is the fast way as accurate? The seed's way and ours on the same crops, for the same number of epochs.

The split is the project's: crops that share pixels are on one side. Both start from random weights, at the same
learning rate, and keep the epoch that their own validation likes best: the seed's, in training mode, by accuracy.
"""

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score
from tqdm import tqdm

from benchmarks import seed
from benchmarks.setting import Setting, extract, params
from benchmarks.training import SHAPES
from nuclei.crops import Labelled, open_crops, roles
from nuclei.data.synthetic.sample import write_sample
from nuclei.data.unpack import unpack
from nuclei.device import choose_device
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.splitting.folds import assign_folds
from nuclei.splitting.leakage import check_folds, merge_groups
from nuclei.splitting.overlap import groups, overlapping_pairs
from nuclei.training.loop import Epoch, Recipe, fit, keep_best

BATCH_SIZE = 32  # of ours; the search takes it rather than 64, see reports/tuned_*.json
LONGER = 3  # times the epochs, in a third run: what the time that is saved can be spent on
TITLES = {"seed": "the seed's way", "ours": "ours", "longer": f"ours, {LONGER} times the epochs"}


@dataclass(frozen=True)
class Size:
    """How much is trained and measured. cnn, resnet: training crops of either network; the others of both."""

    epochs: int
    seeds: int
    cnn: int
    resnet: int
    validation: int
    holdout: int


@dataclass(frozen=True)
class Parts:
    """Rows of the training crops, in random order: those to train on, to pick the epoch by, and to measure on."""

    training: np.ndarray
    validation: np.ndarray
    holdout: np.ndarray


def measure_accuracy(setting: Setting, raw: Path | None, size: Size) -> list[dict[str, Any]]:
    """Return a record of each training.

    network, way, seed, epochs; crops: trained on; minutes: of training and validation; best_minutes: until the epoch
    that was kept; validation_accuracy, holdout_accuracy: of that epoch, in evaluation mode; curve: of each epoch,
    minutes since the start and validation accuracy
    """
    if raw is None:
        raw = setting.raw
        write_sample(raw, params().sample)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # the seed's eight workers
    unpack(raw, setting.crops, channels=3)
    extract(raw, setting.png)
    parts = split(setting)
    runs = [(number, network, way) for number in range(size.seeds) for network in SHAPES for way in TITLES]
    records = []
    bar = tqdm(runs, unit="training")
    for number, network, way in bar:
        bar.set_postfix_str(f"{network}, {TITLES[way]}")
        some = Parts(
            parts.training[: getattr(size, network)], parts.validation[: size.validation], parts.holdout[: size.holdout]
        )
        epochs = size.epochs * (LONGER if way == "longer" else 1)
        measured = (train_seed if way == "seed" else train_ours)(network, setting, some, epochs, number)
        about = {"network": network, "way": way, "seed": number, "epochs": epochs, "crops": len(some.training)}
        records.append(about | measured)
    return records


def split(setting: Setting) -> Parts:
    """Split the crops by overlap, with the project's parameters."""
    _, folds = group_and_fold(setting)
    order = np.random.default_rng(0).permutation(len(folds))
    return Parts(*(order[np.isin(folds[order], members)] for members in roles(params().split.folds)))


def group_and_fold(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each training crop, which share pixels, and its fold: int (N,) both."""
    chosen, overlap, index = params().split, params().overlap, setting.index("train")
    crops = open_crops(setting.crops, "train")
    pairs = overlapping_pairs(crops, window=overlap.window, border=overlap.border, threads=setting.threads)
    given = index["Group"].to_numpy() if "Group" in index else np.arange(len(index))
    group = merge_groups(groups(pairs, len(index)), given)
    folds = assign_folds(index["Label"].to_numpy(), group, chosen.folds, chosen.seed)
    check_folds(pairs, folds, index["Filename"].to_numpy())
    return group, folds


def train_seed(network: str, setting: Setting, parts: Parts, epochs: int, number: int) -> dict[str, Any]:
    choose_device(setting.device, setting.threads)
    torch.manual_seed(number)
    net = seed.NETWORKS[network]().to(setting.device)
    optimizer = seed.adam(net)
    png, index = setting.png / "train", setting.index("train")
    batches = seed.loader(png, index.iloc[parts.training], shuffle=True)
    validation = seed.loader(png, index.iloc[parts.validation])

    def train() -> Iterator[float]:
        for _ in range(epochs):
            seed.train_epoch(net, optimizer, batches, setting.device)
            yield seed.validate(net, validation, setting.device)

    best, curve = -1.0, []
    for minutes, accuracy in stamped(train()):
        curve.append({"minutes": minutes, "validation_accuracy": accuracy})
        if accuracy > best:
            best, best_minutes = accuracy, minutes
            weights = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(weights)

    def accuracy_of(rows: pd.DataFrame) -> float:
        blocks = (rows[start : start + 100] for start in range(0, len(rows), 100))  # all at once takes 10 GB and more
        predicted = np.concatenate([seed.predict(net, png, block, setting.device) for block in blocks])
        return accuracy_score(rows["Label"], predicted)

    return {
        "minutes": minutes,
        "best_minutes": best_minutes,
        "validation_accuracy": accuracy_of(index.iloc[parts.validation]),
        "holdout_accuracy": accuracy_of(index.iloc[parts.holdout]),
        "curve": curve,
    }


def train_ours(network: str, setting: Setting, parts: Parts, epochs: int, number: int) -> dict[str, Any]:
    device, chosen = choose_device(setting.device, setting.threads), params()
    crops, labels = open_crops(setting.crops, "train"), setting.index("train")["Label"].to_numpy(np.int64)
    training, validation, holdout = (
        Labelled(crops[rows], labels[rows]) for rows in (parts.training, parts.validation, parts.holdout)
    )
    recipe = Recipe(seed.LR, min(BATCH_SIZE, len(training)), epochs, number, ema=0.0, train=chosen.train)
    net = build(SHAPES[network], number)
    minutes = []

    def noted(epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        for passed, epoch in stamped(epochs):
            minutes.append(passed)
            yield epoch

    curves, best = keep_best(noted(fit(net, training, validation, recipe, device)), patience=epochs)
    net.load_state_dict(best.weights)
    predicted = predict_logits(net, holdout.crops, device, chosen.train.precision, chosen.predict.tta).argmax(axis=1)
    accuracies = [scores["validation_accuracy"] for scores in curves]
    return {
        "minutes": minutes[-1],
        "best_minutes": minutes[best.number - 1],
        "validation_accuracy": accuracies[best.number - 1],
        "holdout_accuracy": accuracy_score(holdout.labels, predicted),
        "curve": [
            {"minutes": passed, "validation_accuracy": accuracy}
            for passed, accuracy in zip(minutes, accuracies, strict=True)
        ],
    }


def stamped(values: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yield each value with the minutes that it took to come to it; what is done with the values takes none."""
    spent, start = 0.0, time.perf_counter()
    for value in values:
        spent += time.perf_counter() - start
        yield spent / 60, value
        start = time.perf_counter()


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line of each network and way: mean and spread over the seeds, and the minutes to the seed's accuracy.

    target: the median over the seeds of the validation accuracy that the seed's way kept; reached: how many of the
    trainings came to it; to_target: the median of their minutes until then, None where none did
    """
    lines = []
    for network, way in dict.fromkeys((record["network"], record["way"]) for record in records):
        theirs, own = (_of(records, network, chosen) for chosen in ("seed", way))
        target = median(record["validation_accuracy"] for record in theirs)
        if way == "seed":
            times = [record["best_minutes"] for record in own]
        else:
            reached = (
                next((epoch["minutes"] for epoch in record["curve"] if epoch["validation_accuracy"] >= target), None)
                for record in own
            )
            times = [minutes for minutes in reached if minutes is not None]
        accuracies = [record["holdout_accuracy"] for record in own]
        lines.append(
            {key: own[0][key] for key in ("network", "way", "crops", "epochs")}
            | {
                "holdout_accuracy": mean(accuracies),
                "spread": stdev(accuracies) if len(accuracies) > 1 else None,
                "minutes": median(record["minutes"] for record in own),
                "target": target,
                "to_target": median(times) if times else None,
                "reached": len(times),
                "trainings": len(own),
            }
        )
    return lines


def _of(records: list[dict[str, Any]], network: str, way: str) -> list[dict[str, Any]]:
    return [record for record in records if (record["network"], record["way"]) == (network, way)]


def print_summary(lines: list[dict[str, Any]]) -> None:
    """Print Markdown."""
    print("\n| | training crops, epochs | held-out accuracy | minutes | minutes to the seed's validation accuracy |")
    print("|---|--:|--:|--:|--:|")
    for line in lines:
        spread = "" if line["spread"] is None else f" ± {line['spread']:.3f}"
        until = "not reached" if line["to_target"] is None else f"{line['to_target']:.2f}"
        if 0 < line["reached"] < line["trainings"]:
            until += f" ({line['reached']} of {line['trainings']} trainings)"
        cells = (
            f"{line['network']}: {TITLES[line['way']]}",
            f"{line['crops']:,}, {line['epochs']}",
            f"{line['holdout_accuracy']:.3f}{spread}",
            f"{line['minutes']:.2f}",
            f"{until} ({line['target']:.3f})",
        )
        print("| " + " | ".join(cells) + " |")
