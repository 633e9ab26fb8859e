"""Conformal prediction: sets of classes that hold the true one with a promised probability, for a new group."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nuclei.errors import InputError


def conformal_threshold(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, target_coverage: float
) -> tuple[float, float]:
    """Return the probability from which a class belongs to a crop's conformal set, and the coverage that it promises.

    The promise is for a crop of a new group, exchangeable with these groups, on average over groups. Each of the G
    groups weighs 1 / (G + 1), shared equally by its crops; the rest stands for the new group, whose crops may be
    arbitrarily bad. So G groups can promise G / (G + 1) at most: a higher target falls to that.

    Args:
        labels: int (N,), of crops that the network did not train on.
        probabilities: float (N, K).
        groups: (N,), any sortable values.
        target_coverage: Share of new crops whose set holds the true class, in (0, 1), that is asked for.

    Returns:
        The threshold in [0, 1], and the promised coverage: the target, or G / (G + 1) if that is less.

    Source: Lee, Barber & Willett 2023, "Distribution-free inference with hierarchical data"; Dunn, Wasserman &
        Ramdas 2023, "Distribution-free prediction sets for two-layer hierarchical models"; the score is that of
        Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error levels".
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    promised = min(target_coverage, len(sizes) / (len(sizes) + 1))
    true_class = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(-true_class, kind="stable")
    covered = np.cumsum(1 / (sizes[group[order]] * (len(sizes) + 1)))
    first = int(np.searchsorted(covered, promised - 1e-9))  # slack: the weights are rounded
    return float(true_class[order[min(first, len(order) - 1)]]), float(promised)


def conformal_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the conformal set of each crop: the classes that reach the threshold, and always the predicted class.

    Without the latter, a network that is correct more often than the promise asks for would give empty sets.

    Args:
        probabilities: float (N, K).
        threshold: From `conformal_threshold`, in [0, 1].

    Returns:
        bool (N, K).
    """
    predicted = np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]
    return predicted | (probabilities >= threshold)


def out_of_fold_sets(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, folds: np.ndarray, target_coverage: float
) -> tuple[np.ndarray, float]:
    """Return the conformal set of each crop, with a threshold from the out-of-fold predictions of the other folds.

    The networks of the other folds trained on this fold's groups, so they are not quite exchangeable with the one that
    predicts it: the promise is approximate, as it is for cross-conformal prediction (Vovk 2015).

    Args:
        labels: int (N,).
        probabilities: float (N, K), out-of-fold.
        groups: (N,), any sortable values; no group in two folds.
        folds: int (N,), at least two different ones.
        target_coverage: As in `conformal_threshold`.

    Returns:
        The sets, bool (N, K), and the promised coverage: the least of the folds'.

    Raises:
        InputError: There is one fold only.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise InputError("conformal sets are calibrated on the other folds, but there is only one: use 2 folds or more")
    sets, promises = np.zeros(probabilities.shape, bool), []
    for fold in numbers:
        inside, outside = folds == fold, folds != fold
        threshold, promised = conformal_threshold(
            labels[outside], probabilities[outside], groups[outside], target_coverage
        )
        sets[inside] = conformal_sets(probabilities[inside], threshold)
        promises.append(promised)
    return sets, min(promises)


def score_sets(labels: np.ndarray, sets: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Score conformal sets by true class.

    Args:
        labels: int (N,) in 0..K-1.
        sets: bool (N, K).
        classes: The K names.

    Returns:
        One row per class: Class, Set_coverage (share of sets that hold the true class), Set_size (mean); NaN without
        crops.
    """
    table = pd.DataFrame({"Set_coverage": sets[np.arange(len(labels)), labels], "Set_size": sets.sum(axis=1)})
    means = table.astype(float).groupby(labels).mean().reindex(range(len(classes)))
    return means.rename_axis("Class").rename(dict(enumerate(classes))).reset_index()
