"""What the nuclei around a nucleus add to what a network says of it: cells of one kind lie together."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special
from scipy.spatial import cKDTree

from nuclei.crops import Places

RADIUS = 50.0  # microns
SAME_NUCLEUS = 2.5  # microns: what lies closer is the same nucleus, cut or detected twice
MOST_WEIGHT = 20.0
FLOOR = 0.01  # of a probability before its logarithm: no single answer outweighs all others
RIDGE = 0.003  # pulls towards neighbours that count nothing, so that a few groups do not make extreme weights
AT_ONCE = 4096  # nuclei whose neighbours are listed at a time


def mean_of_neighbours(probabilities: np.ndarray, places: Places, radius: float = RADIUS) -> np.ndarray:
    """Return the mean probabilities of the neighbours of each nucleus: the other nuclei within a radius.

    Args:
        probabilities: float (N, K).
        places: Of the N nuclei.
        radius: Microns.

    Returns:
        float64 (N, K); NaN where a nucleus has no neighbour.
    """
    means = np.full(probabilities.shape, np.nan)
    for rows, neighbours, counts in _neighbours(places, radius):
        near = counts > 0
        if near.any():
            starts = (np.cumsum(counts) - counts)[near]
            sums = np.add.reduceat(probabilities[neighbours].astype(np.float64), starts)
            means[rows[near]] = sums / counts[near, None]
    return means


def labels_around(
    places: Places, labelled: Places, labels: np.ndarray, classes: int, radius: float = RADIUS
) -> np.ndarray:
    """Return the shares of the classes among the labelled nuclei within a radius of each nucleus.

    Where one of them lies so close that it is the same nucleus, cut twice, its label alone is returned.

    Args:
        places: Of the N nuclei.
        labelled: Places of M others.
        labels: int (M,), of these.
        classes: K, their number.
        radius: Microns.

    Returns:
        float64 (N, K), rows sum to 1; NaN where no labelled nucleus is near.
    """
    points, tree = _points(places, radius), cKDTree(_points(labelled, radius))
    shares = np.full((len(points), classes), np.nan)
    for start in range(0, len(points), AT_ONCE):
        block = points[start : start + AT_ONCE]
        same = tree.query_ball_point(block, SAME_NUCLEUS)
        for row, around in enumerate(tree.query_ball_point(block, radius), start):
            near = same[row - start] or around
            if near:
                shares[row] = np.bincount(labels[near], minlength=classes) / len(near)
    return shares


def fit_weights(probabilities: np.ndarray, around: np.ndarray, labels: np.ndarray) -> tuple[float, ...] | None:
    """Fit how much a nucleus and its neighbours count: the labels are to be likely, and the weights not extreme.

    Args:
        probabilities: float (N, K), of networks that did not train on these nuclei.
        around: float (N, K), from `mean_of_neighbours`.
        labels: int (N,).

    Returns:
        1 + K weights in [0, 20]: of the nucleus, and of its neighbours in favour of each class; None where no nucleus
        has a neighbour.
    """
    from scipy.optimize import minimize  # takes a quarter of a second, and most stages only read weights

    rows = np.flatnonzero(~np.isnan(around[:, 0]))
    if not len(rows):
        return None
    nuclei, neighbours = _log(probabilities[rows]), _log(around[rows])
    is_true = np.eye(probabilities.shape[1])[labels[rows]]
    alone = np.append(1.0, np.zeros(probabilities.shape[1]))  # the weights with which nothing changes

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores, moved = weights[0] * nuclei + weights[1:] * neighbours, weights - alone
        error = special.softmax(scores, axis=1) - is_true
        value = (special.logsumexp(scores, axis=1) - (scores * is_true).sum(axis=1)).mean() + RIDGE * moved @ moved
        gradient = np.array([(error * nuclei).sum(), *(error * neighbours).sum(axis=0)]) / len(rows) + 2 * RIDGE * moved
        return float(value), gradient

    result = minimize(loss, alone, jac=True, method="L-BFGS-B", bounds=[(0.0, MOST_WEIGHT)] * len(alone))
    return tuple(map(float, result.x))


def add_neighbours(probabilities: np.ndarray, around: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the probabilities of nuclei in the light of their neighbours.

    Args:
        probabilities: float (N, K).
        around: float (N, K), from `mean_of_neighbours` or `labels_around`.
        weights: From `fit_weights`.

    Returns:
        float64 (N, K), rows sum to 1; of a nucleus without neighbours, as they were.

    Source: a logarithmic opinion pool (Genest & Zidek 1986, "Combining probability distributions: a critique and an
        annotated bibliography") with a weight per class for the neighbours.
    """
    scores = weights[0] * _log(probabilities) + np.array(weights[1:]) * _log(around)
    return np.where(np.isnan(around), probabilities, special.softmax(scores, axis=1))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities.astype(np.float64).clip(FLOOR))


def _points(places: Places, radius: float) -> np.ndarray:
    """Return places as points, float (N, 3): a third axis keeps the nuclei of other tissue out of reach."""
    return np.stack([places.y, places.x, 10 * radius * places.tissue], axis=1)


def _neighbours(places: Places, radius: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield some of the N nuclei, int (n,), the neighbours of all of these in turn, and how many each has, int (n,)."""
    points = _points(places, radius)
    tree = cKDTree(points)
    for start in range(0, len(points), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(points)))
        near = tree.query_ball_point(points[rows], radius, return_sorted=True)
        neighbours = np.concatenate(near).astype(np.int64)
        centres = np.repeat(rows, list(map(len, near)))
        others = np.linalg.norm(points[neighbours] - points[centres], axis=1) >= SAME_NUCLEUS
        yield rows, neighbours[others], np.bincount(centres[others] - start, minlength=len(rows))
