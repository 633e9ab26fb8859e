"""Is speed bought with accuracy? Baseline and this project on the same crops, for the same number of epochs.

`python -m benchmarks.studies.accuracy --raw FOLDER`, 18 minutes on two cores.

The split is the project's: crops that share pixels are on one side. Both start from random weights, at the same
learning rate. The baseline keeps the epoch that its validation, in training mode, likes best; this project trains to
the end of its schedule, and the validation crops only show how far it is.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score
from tqdm import tqdm

from benchmarks import baseline
from benchmarks.machine import describe_machine
from benchmarks.markdown import markdown_table
from benchmarks.speed.training import SHAPES, config
from benchmarks.workspace import RESULTS, Workspace, extract, params
from nuclei.crops import FoldedCrops, LabelledCrops, open_crops, open_folds
from nuclei.data.synthetic.sample import write_sample
from nuclei.data.unpack import unpack
from nuclei.device import setup_device
from nuclei.files import write_csv, write_json
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.splitting.overlap import overlapping_pairs
from nuclei.splitting.split import split_crops
from nuclei.task import COLON
from nuclei.training.loop import fit

BATCH_SIZE = 32  # of this project; the search takes it rather than 64
LONGER = 3  # times the epochs, in a third run: what the time that is saved can be spent on
TITLES = {
    "baseline": "baseline",
    "project": "this project",
    "longer": f"this project, {LONGER} times the epochs",
}


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


def measure_accuracy(workspace: Workspace, raw: Path | None, size: Size) -> list[dict[str, Any]]:
    """Return a record of each training.

    network, implementation, seed, epochs
    crops: number trained on
    minutes: of training and validation; best_minutes: until the epoch that was kept, this project's last
    validation_accuracy, holdout_accuracy: of the epoch that was kept, in evaluation mode
    curve: of each epoch, minutes since the start and validation accuracy
    """
    if raw is None:
        raw = workspace.raw
        write_sample(raw, params().sample)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # the baseline's eight workers
    unpack(raw, workspace.crops, channels=3)
    extract(raw, workspace.png)
    parts = split(workspace)
    runs = [(seed, network, name) for seed in range(size.seeds) for network in SHAPES for name in TITLES]
    records = []
    bar = tqdm(runs, unit="training")
    for seed, network, name in bar:
        bar.set_postfix_str(f"{network}, {TITLES[name]}")
        limited = Parts(
            parts.training[: getattr(size, network)], parts.validation[: size.validation], parts.holdout[: size.holdout]
        )
        epochs = size.epochs * (LONGER if name == "longer" else 1)
        train = train_baseline if name == "baseline" else train_project
        about = {"network": network, "implementation": name, "seed": seed, "epochs": epochs}
        about |= {"crops": len(limited.training)}
        records.append(about | train(network, workspace, limited, epochs, seed))
    return records


def split(workspace: Workspace) -> Parts:
    """Hold out fold 0, validate on fold 1, train on the others."""
    folds = fold_crops(workspace).folds
    order = np.random.default_rng(0).permutation(len(folds))
    fold = folds[order]
    return Parts(order[fold > 1], order[fold == 1], order[fold == 0])


def fold_crops(workspace: Workspace) -> FoldedCrops:
    """Split the crops by overlap, with the project's parameters; every fold is held out."""
    overlap, parts = params().overlap, [open_crops(workspace.crops, part) for part in ("train", "test")]
    pairs = overlapping_pairs(*parts, window=overlap.window, border=overlap.border, threads=workspace.threads)
    split = split_crops(workspace.index("train"), pairs, len(parts[1]), COLON, params().split, on_sample=False)
    write_csv(workspace.folder / "split.csv", split.table)
    return open_folds(workspace.crops, workspace.folder / "split.csv")


def train_baseline(network: str, workspace: Workspace, parts: Parts, epochs: int, seed: int) -> dict[str, Any]:
    setup_device(workspace.device, workspace.threads)
    torch.manual_seed(seed)
    net = baseline.NETWORKS[network]().to(workspace.device)
    optimizer = baseline.adam(net)
    png, index = workspace.png / "train", workspace.index("train")
    batches = baseline.loader(png, index.iloc[parts.training], shuffle=True)
    validation = baseline.loader(png, index.iloc[parts.validation])

    def train() -> Iterator[float]:
        for _ in range(epochs):
            baseline.train_epoch(net, optimizer, batches, workspace.device)
            yield baseline.validate(net, validation, workspace.device)

    best, curve = -1.0, []
    for minutes, accuracy in stamped(train()):
        curve.append({"minutes": minutes, "validation_accuracy": accuracy})
        if accuracy > best:
            best, best_minutes = accuracy, minutes
            weights = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(weights)

    def accuracy_of(rows: pd.DataFrame) -> float:
        blocks = (rows[start : start + 100] for start in range(0, len(rows), 100))  # all at once takes 10 GB and more
        predicted = np.concatenate([baseline.predict(net, png, block, workspace.device) for block in blocks])
        return accuracy_score(rows["Label"], predicted)

    return {
        "minutes": minutes,
        "best_minutes": best_minutes,
        "validation_accuracy": accuracy_of(index.iloc[parts.validation]),
        "holdout_accuracy": accuracy_of(index.iloc[parts.holdout]),
        "curve": curve,
    }


def train_project(network: str, workspace: Workspace, parts: Parts, epochs: int, seed: int) -> dict[str, Any]:
    device, chosen = setup_device(workspace.device, workspace.threads), params()
    data = LabelledCrops(open_crops(workspace.crops, "train"), workspace.index("train")["Label"].to_numpy(np.int64))
    training, validation, holdout = map(data.take, (parts.training, parts.validation, parts.holdout))
    recipe = config(len(training), epochs, min(BATCH_SIZE, len(training)), seed)
    net = build(SHAPES[network], seed)
    curve = [
        {"minutes": passed, "validation_accuracy": epoch.scores["heldout_accuracy"]}
        for passed, epoch in stamped(fit(net, training, validation, recipe, device))
    ]
    predicted = predict_logits(net, holdout.crops, device, chosen.train.precision, chosen.predict.tta).argmax(axis=1)
    return {
        "minutes": curve[-1]["minutes"],
        "best_minutes": curve[-1]["minutes"],
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "holdout_accuracy": accuracy_score(holdout.labels, predicted),
        "curve": curve,
    }


def stamped(values: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yield each value with the minutes that it took to come to it; what is done with the values takes none."""
    spent, start = 0.0, time.perf_counter()
    for value in values:
        spent += time.perf_counter() - start
        yield spent / 60, value
        start = time.perf_counter()


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line of each network and implementation: mean and standard deviation over the random seeds, and the
    minutes to the baseline's accuracy.

    target: the median over the random seeds of the validation accuracy that the baseline kept; reached: how many of the
    trainings came to it; to_target: the median of their minutes until then, None where none did
    """
    lines = []
    for network, name in dict.fromkeys((record["network"], record["implementation"]) for record in records):
        runs = _of(records, network, name)
        target = median(record["validation_accuracy"] for record in _of(records, network, "baseline"))
        if name == "baseline":
            times = [record["best_minutes"] for record in runs]
        else:
            reached = (
                next((epoch["minutes"] for epoch in record["curve"] if epoch["validation_accuracy"] >= target), None)
                for record in runs
            )
            times = [minutes for minutes in reached if minutes is not None]
        accuracies = [record["holdout_accuracy"] for record in runs]
        lines.append(
            {key: runs[0][key] for key in ("network", "implementation", "crops", "epochs")}
            | {
                "holdout_accuracy": mean(accuracies),
                "std": stdev(accuracies) if len(accuracies) > 1 else None,
                "minutes": median(record["minutes"] for record in runs),
                "target": target,
                "to_target": median(times) if times else None,
                "reached": len(times),
                "trainings": len(runs),
            }
        )
    return lines


def _of(records: list[dict[str, Any]], network: str, implementation: str) -> list[dict[str, Any]]:
    return [record for record in records if (record["network"], record["implementation"]) == (network, implementation)]


def print_summary(lines: list[dict[str, Any]]) -> None:
    """Print Markdown."""
    rows = []
    for line in lines:
        std = "" if line["std"] is None else f" ± {line['std']:.3f}"
        until = "not reached" if line["to_target"] is None else f"{line['to_target']:.2f}"
        if 0 < line["reached"] < line["trainings"]:
            until += f" ({line['reached']} of {line['trainings']} trainings)"
        rows.append(
            [
                f"{line['network']}: {TITLES[line['implementation']]}",
                f"{line['crops']:,}, {line['epochs']}",
                f"{line['holdout_accuracy']:.3f}{std}",
                f"{line['minutes']:.2f}",
                f"{until} ({line['target']:.3f})",
            ]
        )
    target = "minutes to the baseline's validation accuracy"
    print(markdown_table(["", "training crops, epochs", "held-out accuracy", "minutes", target], rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.accuracy", description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with the four files; default: the built-in sample")
    for name, default, what in (
        ("epochs", 4, "that both train for"),
        ("seeds", 3, "random seeds: trainings of each kind"),
        ("cnn", 1200, "crops that the CNN is trained on, at most"),
        ("resnet", 480, "crops that the ResNet18 is trained on, at most"),
        ("validation", 400, "crops that pick the epoch, at most"),
        ("holdout", 1000, "crops that are only measured on, at most"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="number of CPU threads (all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for accuracy.json")
    return parser.parse_args()


def main() -> None:
    options = parse()
    size = Size(**{field.name: getattr(options, field.name) for field in fields(Size)})
    with tempfile.TemporaryDirectory() as folder:
        trainings = measure_accuracy(Workspace(Path(folder), options.device, options.threads), options.raw, size)
    summary = summarise(trainings)
    print_summary(summary)
    machine = describe_machine(options.device, options.threads)
    write_json(options.out / "accuracy.json", {"machine": machine, "summary": summary, "trainings": trainings})


if __name__ == "__main__":
    main()
