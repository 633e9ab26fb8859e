"""What combining predictions brings: those of eight views, of both networks, of neighbours and of their labels.

`python -m benchmarks.studies.combine`, after `dvc repro evaluate`: a minute, nothing is trained.

Everything is computed from the out-of-fold predictions in data/models. Neighbours are nuclei within a radius in the
same mosaic, laid out by the pixels that crops share; for each fold, their weights are fitted on the other folds, as the
temperatures are. Labelled nuclei are those of the other folds, with the same weights, as a submission has them: where a
mosaic has crops of several folds, as in a random split. Adjusted: the class frequencies of the other folds count half,
which favours rare classes (Menon et al. 2021, "Long-tail learning via logit adjustment", at a strength of 0.5).
Differences are from the same network with all views and without neighbours; of the mean of both, from the more accurate
network; of what is adjusted, from the same before.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.markdown import markdown_table
from benchmarks.studies.rows import COMPARED, describe
from nuclei.crops import Places, read_places
from nuclei.evaluation.evaluate import cross_fit, read_out_of_fold
from nuclei.evaluation.with_neighbours import cross_fit_neighbours
from nuclei.files import read_csv
from nuclei.models.neighbours import labels_around, mean_of_neighbours
from nuclei.task import NETWORKS, read_task

RADII = 25, 50, 100  # microns
TITLES = "accuracy", "balanced accuracy", "log loss", "accuracy, difference", "balanced accuracy, difference", "p"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.combine", description=__doc__)
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="microns around a nucleus")
    radii = parser.parse_args().radii
    split, task = read_csv(Path("data/split.csv")), read_task(Path("data/crops"))
    classes = task.classes
    single, averaged = {}, {}
    for tta, probabilities in ((False, single), (True, averaged)):
        for name in NETWORKS:
            crops, logits = read_out_of_fold(Path(f"data/models/{name}"), split, tta)
            labels, folds = crops["Label"].to_numpy(), crops["Fold"].to_numpy()
            probabilities[name] = cross_fit(logits, labels, folds)[0]
    groups, metrics, places = crops["Group"].to_numpy(), (*COMPARED, "log_loss"), read_places(crops, task)
    known = {radius: labels_of_other_folds(places, labels, folds, len(classes), radius) for radius in radii}
    rows = []

    def add(title: str, probabilities: np.ndarray, before: np.ndarray | None) -> None:
        rows.append([title, *describe(probabilities, before, labels, groups, classes, metrics)])

    for name in NETWORKS:
        add(f"{name}, one view", single[name], averaged[name])
    better = max(averaged.values(), key=lambda probabilities: np.mean(probabilities.argmax(axis=1) == labels))
    averaged["mean of both"] = np.mean(list(averaged.values()), axis=0)
    for name, alone in averaged.items():
        add(name, alone, None if name in NETWORKS else better)
        for radius in radii:
            around = mean_of_neighbours(alone, places, radius)
            together = cross_fit_neighbours(alone, around, labels, folds)
            add(f"{name}, neighbours within {radius:g} microns", together, alone)
            add(f"{name}, neighbours within {radius:g} microns, adjusted", adjust(together, labels, folds), together)
            if not np.isnan(known[radius]).all():
                together = cross_fit_neighbours(alone, around, labels, folds, known[radius])
                add(f"{name}, labelled nuclei within {radius:g} microns", together, alone)
    print(markdown_table(["", *TITLES], rows))


def labels_of_other_folds(
    places: Places, labels: np.ndarray, folds: np.ndarray, classes: int, radius: float
) -> np.ndarray:
    """Return `labels_around` of each crop, of the crops in other folds."""
    shares = np.empty((len(labels), classes))
    for fold in np.unique(folds):
        inside = folds == fold
        others = places.take(~inside), labels[~inside]
        shares[inside] = labels_around(places.take(inside), *others, classes, radius)
    return shares


def adjust(probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Divide by the class frequencies of the other folds, to the power of `strength`; rows sum to 1 again."""
    adjusted = np.empty_like(probabilities)
    for fold in np.unique(folds):
        inside = folds == fold
        frequencies = np.bincount(labels[~inside], minlength=probabilities.shape[1]) / (~inside).sum()
        adjusted[inside] = probabilities[inside] / frequencies**strength
    return adjusted / adjusted.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main()
