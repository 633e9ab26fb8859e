"""What combining predictions brings: those of eight views, of both networks, of neighbouring nuclei.

`python -m benchmarks.studies.combine`, after `dvc repro evaluate`: a minute, nothing is trained.

Everything is computed from the out-of-fold predictions in data/models. Neighbours are nuclei within a radius in the
same mosaic, laid out by the pixels that crops share. A logistic regression takes the log-probabilities of a nucleus and
of the mean of its neighbours; for each fold it is fitted on the other folds, as the temperatures are. Differences are
from the same network with all views and without neighbours; of the mean of both, from the more accurate network.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression

from benchmarks.markdown import markdown_table, with_interval
from nuclei.crops import open_crops
from nuclei.evaluation.comparison import compare
from nuclei.evaluation.evaluate import cross_fit, read_out_of_fold
from nuclei.evaluation.intervals import score_intervals
from nuclei.evaluation.metrics import score
from nuclei.files import read_csv
from nuclei.splitting.overlap import layout, load_pairs
from nuclei.task import NETWORKS, read_task

RADII = 50, 100, 200, 400  # pixels
SAME_NUCLEUS = 10  # pixels: crops that are closer show the same one
FLOOR = 0.01  # of a probability, before its logarithm
TITLES = "accuracy", "balanced accuracy", "log loss", "accuracy, difference", "balanced accuracy, difference", "p"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.combine", description=__doc__)
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="pixels around a nucleus")
    radii = parser.parse_args().radii
    split, classes = read_csv(Path("data/split.csv")), read_task(Path("data/crops")).classes
    held_out = split["Held_out"].to_numpy() == 1
    groups, places = (values[held_out] for values in mosaics(len(split)))
    single, averaged = {}, {}
    for tta, probabilities in ((False, single), (True, averaged)):
        for name in NETWORKS:
            crops, logits = read_out_of_fold(Path(f"data/models/{name}"), split, tta)
            labels, folds = crops["Label"].to_numpy(), crops["Fold"].to_numpy()
            probabilities[name] = cross_fit(logits, labels, folds)[0]
    rows = [describe(f"{name}, one view", crops, single[name], averaged[name], classes) for name in NETWORKS]
    better = max(averaged.values(), key=lambda probabilities: np.mean(probabilities.argmax(axis=1) == labels))
    averaged["mean of both"] = np.mean(list(averaged.values()), axis=0)
    for name, alone in averaged.items():
        rows.append(describe(name, crops, alone, None if name in NETWORKS else better, classes))
        for radius in radii:
            neighbours = mean_of_neighbours(alone, groups, places, radius)
            together = refit(alone, neighbours, labels, folds)
            rows.append(describe(f"{name}, neighbours within {radius:g} pixels", crops, together, alone, classes))
    print(markdown_table(["", *TITLES], rows))


def mosaics(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay out the crops of data/crops.

    Args:
        n: Number of labelled crops, the first ones.

    Returns:
        Of the labelled crops: the mosaic, int (n,), and the place in it, int (n, 2), pixels.
    """
    train, test = (open_crops(Path("data/crops"), part) for part in ("train", "test"))
    placed = layout(load_pairs(Path("data/overlaps.npz")), n + len(test), train.shape[1:3])
    return placed.group[:n], np.stack([placed.y, placed.x], axis=1)[:n]


def mean_of_neighbours(probabilities: np.ndarray, groups: np.ndarray, places: np.ndarray, radius: float) -> np.ndarray:
    """Return the mean probabilities of the nuclei around each nucleus.

    Args:
        probabilities: float (N, K).
        groups: int (N,), the mosaic of each nucleus.
        places: int (N, 2), pixels in it.
        radius: Pixels.

    Returns:
        float (N, K); of a nucleus without neighbours, its probabilities.
    """
    result = probabilities.copy()
    for members in pd.Series(np.arange(len(groups))).groupby(groups).indices.values():
        around = cKDTree(places[members]).query_ball_point(places[members], radius)
        for nucleus, near in zip(members, around, strict=True):
            others = members[near]
            others = others[np.linalg.norm(places[others] - places[nucleus], axis=1) >= SAME_NUCLEUS]
            if len(others):
                result[nucleus] = probabilities[others].mean(axis=0)
    return result


def refit(probabilities: np.ndarray, neighbours: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, K) of each fold by a regression that was fitted on the other folds."""
    features = np.log(np.concatenate([probabilities, neighbours], axis=1).clip(FLOOR))
    result = np.zeros_like(probabilities)
    for fold in np.unique(folds):
        inside = folds == fold
        model = LogisticRegression(max_iter=2000).fit(features[~inside], labels[~inside])
        result[np.ix_(inside, model.classes_)] = model.predict_proba(features[inside])
    return result


def describe(
    name: str, crops: pd.DataFrame, probabilities: np.ndarray, before: np.ndarray | None, classes: tuple[str, ...]
) -> list[str]:
    """Return a row of the table; before: the probabilities that the differences are from."""
    labels, groups = crops["Label"].to_numpy(), crops["Group"].to_numpy()
    scores = score(labels, probabilities, bins=1) | score_intervals(labels, probabilities, groups, classes)
    cells = [name, *(with_interval(scores, metric, ".3f") for metric in ("accuracy", "balanced_accuracy", "log_loss"))]
    if before is None:
        return [*cells, "", "", ""]
    predicted = {"before": before.argmax(axis=1), "after": probabilities.argmax(axis=1)}
    difference = compare(labels, predicted, groups, classes)
    both = (with_interval(difference, f"{metric}_difference", "+.3f") for metric in ("accuracy", "balanced_accuracy"))
    return [*cells, *both, f"{difference['p_value']:.2g}"]


if __name__ == "__main__":
    main()
