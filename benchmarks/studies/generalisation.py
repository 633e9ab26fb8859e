"""What raises the score on tissue that the network has not seen.

`python -m benchmarks.studies.generalisation --raw FOLDER`, half an hour on two cores.

The CNN is trained and measured on every fold of a split by overlap, first as params.yaml says, then with one change
at a time. The predictions of all folds are scored together, so the many tiles of a set all count.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from benchmarks.markdown import markdown_table
from benchmarks.studies.accuracy import group_and_fold
from benchmarks.workspace import Workspace, params
from nuclei.crops import open_crops, roles, select
from nuclei.data.unpack import unpack
from nuclei.device import autocast, setup_device
from nuclei.evaluation.metrics import compare, draw_resamples, score, score_intervals
from nuclei.models.networks import SmallCNN, build
from nuclei.models.predict import predict_logits, softmax
from nuclei.models.transforms import MEAN, draw_augmentation, normalise
from nuclei.task import CLASSES
from nuclei.training.loop import Recipe, fit, keep_best

LR, BATCH_SIZE = 0.001, 32  # about what the search finds
SHAPE = SmallCNN(3, (32, 64, 128, 256), (256, 64), 0.2)
PRETRAINING_EPOCHS, PRETRAINING_BATCH = 4, 128
CONTRAST = 0.1  # temperature of the contrastive loss
BASE = "as in params.yaml"
METRICS = ("accuracy", "balanced_accuracy")
TITLES = ("accuracy", "balanced accuracy")


@dataclass(frozen=True)
class Change:
    """train: parameters of params.yaml that differ; prepare: what is done to all crops, uint8 (N, H, W, 3), first;
    pretrain: first without labels, on the crops to train on"""

    train: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[np.ndarray], np.ndarray] = np.asarray
    pretrain: bool = False


def only_middle(crops: np.ndarray, side: int) -> np.ndarray:
    """Put the mean colour of the normalisation all around the middle `side` x `side` pixels."""
    start = (crops.shape[1] - side) // 2
    middle = slice(start, start + side)
    hidden = np.empty_like(crops)
    hidden[:] = np.round(255 * np.array(MEAN[3]))
    hidden[:, middle, middle] = crops[:, middle, middle]
    return hidden


def reinhard(crops: np.ndarray) -> np.ndarray:
    """Give the colours of every crop the same mean and standard deviation, those of the average crop.

    Source: Reinhard et al. 2001, "Color transfer between images", here in CIELAB.
    """
    starts = range(0, len(crops), 256)
    blocks = [rgb2lab(crops[start : start + 256]) for start in starts]
    means, spreads = ([take(block, axis=(1, 2), keepdims=True) for block in blocks] for take in (np.mean, np.std))
    to_mean, to_spread = (np.concatenate(values).mean(axis=0) for values in (means, spreads))
    result = np.empty_like(crops)
    for start, block, mean, spread in zip(starts, blocks, means, spreads, strict=True):
        lab = (block - mean) / spread.clip(min=1e-3) * to_spread + to_mean
        result[start : start + 256] = np.round(255 * lab2rgb(lab).clip(0, 1))
    return result


CHANGES = {
    BASE: Change(),
    "stain jitter 0.05": Change({"stain": 0.05}),
    "stain jitter 0.4": Change({"stain": 0.4}),
    "balanced loss": Change({"balance": "loss"}),
    "balanced sampling": Change({"balance": "sampling"}),
    "the middle 60 x 60 pixels only": Change(prepare=partial(only_middle, side=60)),
    "Reinhard colour normalisation": Change(prepare=reinhard),
    "SimCLR pretraining": Change(pretrain=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.generalisation", description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="a folder with the four files")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=f"any of {', '.join(CHANGES)}")
    options = parser.parse_args()
    if unknown := set(options.changes) - CHANGES.keys():
        parser.error(f"no change {min(unknown)!r}: choose from {', '.join(CHANGES)}")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), options.device, options.threads)
        unpack(options.raw, workspace.crops, channels=3)
        group, folds = group_and_fold(workspace)
        crops = open_crops(workspace.crops, "train")
        split = workspace.index("train").assign(Fold=folds)
        labels = split["Label"].to_numpy()
        resamples = draw_resamples(group, params().evaluate.resamples, params().evaluate.seed)
        print(f"{len(labels):,} crops, {resamples.shape[1]} groups, {options.epochs} epochs on each fold\n")
        rows, before = [], None
        for name in dict.fromkeys([BASE, *(options.changes or CHANGES)]):
            probabilities = hold_out_each(name, crops, split, options.epochs, workspace)
            rows.append(describe(name, labels, probabilities, before, group, resamples))
            print(", ".join(rows[-1]), file=sys.stderr)  # what is known so far
            before = probabilities if before is None else before
    print(markdown_table(["", *(f"{title}{what}" for what in ("", ", difference") for title in TITLES)], rows))


def hold_out_each(name: str, crops: np.ndarray, split: pd.DataFrame, epochs: int, workspace: Workspace) -> np.ndarray:
    """Return probabilities (N, K) of each crop by the network that its fold was held out of.

    split: Label and Fold of each of `crops`
    """
    change, device = CHANGES[name], setup_device(workspace.device, workspace.threads)
    train = params().train.model_copy(update=dict(change.train))
    recipe = Recipe(LR, BATCH_SIZE, epochs, seed=0, ema=0.0, train=train)
    crops = change.prepare(crops)
    folds = split["Fold"].max() + 1
    logits = np.empty((len(crops), len(CLASSES)), np.float32)
    for fold in tqdm(range(folds), desc=name, unit="fold", leave=False):
        training, validation, holdout = (select(crops, split, members) for members in roles(folds, fold))
        network = build(SHAPE, seed=fold).to(device)
        if change.pretrain:
            pretrain(network, training.crops, device, train.precision)
        _, best = keep_best(fit(network, training, validation, recipe, device), patience=epochs)
        network.load_state_dict(best.weights)
        logits[split["Fold"] == fold] = predict_logits(
            network, holdout.crops, device, train.precision, params().predict.tta
        )
    return softmax(logits)


def pretrain(network: nn.Sequential, crops: np.ndarray, device: torch.device, precision: str) -> None:
    """Train all before the first fully connected layer: two views of a crop are to look alike, unlike other crops.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations".
    """
    first = next(place for place, layer in enumerate(network) if isinstance(layer, nn.Linear))
    body = network[:first]
    head = nn.Sequential(nn.Linear(network[first].in_features, 256), nn.ReLU(), nn.Linear(256, 64)).to(device)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], LR, weight_decay=1e-4)
    zoom = v2.RandomResizedCrop(crops.shape[1], scale=(0.4, 1), ratio=(1, 1), antialias=False)
    body.train()
    for epoch in range(PRETRAINING_EPOCHS):
        rng = np.random.default_rng((0, epoch))
        torch.manual_seed(epoch)
        views = [draw_augmentation(len(crops), dihedral=True, stain=0.4, rng=rng) for _ in range(2)]
        for rows in np.array_split(rng.permutation(len(crops)), max(len(crops) // PRETRAINING_BATCH, 1)):
            batch, of = torch.from_numpy(crops[rows]).to(device), torch.from_numpy(rows)
            with autocast(device, precision):
                points = [head(body(zoom(normalise(view(batch, of).float())))) for view in views]
            loss = contrast(torch.cat(points).float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def contrast(points: Tensor) -> Tensor:
    """NT-Xent: rows (2 N, D), where N and i + N are views of one crop, find each other among all others."""
    points = nn.functional.normalize(points)
    likeness = (points @ points.T / CONTRAST).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(points), device=points.device).roll(len(points) // 2)
    return nn.functional.cross_entropy(likeness, partner)


def describe(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    before: np.ndarray | None,
    group: np.ndarray,
    resamples: np.ndarray,
) -> list[str]:
    """Return a row of the table; before: probabilities without the change."""
    bins = params().evaluate.bins
    scores = score(labels, probabilities, bins) | score_intervals(labels, probabilities, group, resamples, bins)
    cells = [f"{scores[m]:.3f} [{scores[m + '_low']:.3f}, {scores[m + '_high']:.3f}]" for m in METRICS]
    if before is None:
        cells += ["", ""]
    else:
        predicted = {"before": before.argmax(axis=1), "after": probabilities.argmax(axis=1)}
        differences = compare(labels, predicted, group, resamples)
        names = [f"{metric}_difference" for metric in METRICS]
        cells += [
            f"{differences[d]:+.3f} [{differences[d + '_low']:+.3f}, {differences[d + '_high']:+.3f}]" for d in names
        ]
    return [name, *cells]


if __name__ == "__main__":
    main()
