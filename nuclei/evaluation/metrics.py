"""Scores of predicted probabilities: overall, per class, per group, and with each group left out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "brier", "ece")


class Counts(NamedTuple):
    """Crops per class, for R sets of crops.

    Attributes:
        correct: float64 (R, K), of the class and predicted so.
        labelled: float64 (R, K), of the class.
        predicted: float64 (R, K), predicted so.
    """

    correct: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    def total(self) -> "Counts":
        """Count all sets together: (1, K)."""
        correct, labelled, predicted = (counts.sum(axis=0, keepdims=True) for counts in self)
        return Counts(correct, labelled, predicted)

    def without_each(self) -> "Counts":
        """Count all sets but one, for each in turn: (R, K)."""
        correct, labelled, predicted = (counts.sum(axis=0) - counts for counts in self)
        return Counts(correct, labelled, predicted)


def score(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> dict[str, float]:
    """Score probabilities against labels by every metric of `METRICS`.

    The means over classes (balanced_accuracy, macro_f1, auc) take the classes that occur among the labels.

    Args:
        labels: int (N,) in 0..K-1.
        probabilities: float (N, K), rows sum to 1.
        bins: Number of confidence bins of the ece.

    Returns:
        accuracy, balanced_accuracy, macro_f1, auc (one-vs-rest; NaN where fewer than two classes occur) and ece (see
        `calibration_error`) in [0, 1]; log_loss in nats; brier in [0, 2], the sum of squares over the classes.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability"; the other metrics are
        scikit-learn's.
    """
    counts = count_per_group(labels, probabilities.argmax(axis=1), np.zeros(len(labels), int), probabilities.shape[1])
    scores = {metric: function(counts)[0] for metric, function in COUNT_METRICS.items()}
    scores["auc"] = _auc(labels, probabilities)
    scores |= {metric: losses.mean() for metric, losses in _losses(labels, probabilities).items()}
    scores["ece"] = calibration_error(labels, probabilities, bins)
    return {metric: float(scores[metric]) for metric in METRICS}


def scores_without_each_group(
    labels: np.ndarray, probabilities: np.ndarray, group: np.ndarray
) -> dict[str, np.ndarray]:
    """Score all crops but those of one group, for each group in turn: what the jackknife needs.

    Args:
        labels: int (N,) in 0..K-1.
        probabilities: float (N, K).
        group: int (N,) in 0..G-1, at least two groups, none empty.

    Returns:
        float64 (G,) for every metric of `score` but the ece.
    """
    n_groups = int(group.max()) + 1
    counts = count_per_group(labels, probabilities.argmax(axis=1), group, probabilities.shape[1]).without_each()
    crops = len(labels) - np.bincount(group)
    scores = {metric: function(counts) for metric, function in COUNT_METRICS.items()}
    scores["auc"] = _auc_without_each_group(labels, probabilities, group)
    for metric, losses in _losses(labels, probabilities).items():
        scores[metric] = (losses.sum() - np.bincount(group, losses, n_groups)) / crops
    return scores


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over confidence bins.

    It looks at the predicted class only (top label), and is biased upwards where bins hold few crops: compare it with
    `nuclei.evaluation.calibration.expected_ece`.

    Args:
        labels: int (N,).
        probabilities: float (N, K).
        bins: Number of equally wide bins over [0, 1].

    Returns:
        A number in [0, 1].

    Source: Guo et al. 2017, "On calibration of modern neural networks", eq. 3.
    """
    gap = (probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1)
    return float(np.abs(np.bincount(confidence_bins(probabilities, bins), gap)).sum() / len(labels))


def confidence_bins(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each crop's confidence; bins are equally wide, over [0, 1].

    Args:
        probabilities: float (N, K).
        bins: Number of bins.

    Returns:
        int (N,) in 0..bins-1.
    """
    return np.minimum((probabilities.max(axis=1) * bins).astype(int), bins - 1)


def effective_groups(groups: np.ndarray) -> float:
    """Return the effective number of groups, (sum n)^2 / sum n^2 of the group sizes n.

    It is 1 for a single group, and G for G groups of equal size. A few large groups and many tiny ones tell as much of
    the differences between groups as this many equal ones.

    Args:
        groups: (N,), any sortable values; none for no crops, which gives 0.

    Source: Kish 1965, "Survey sampling"; Carter, Schnepel & Steigerwald 2017, "Asymptotic behavior of a t-test robust
        to cluster heterogeneity".
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def score_classes(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Score each class.

    Args:
        labels: int (N,) in 0..K-1.
        probabilities: float (N, K).
        groups: (N,), any sortable values.
        classes: The K names.

    Returns:
        One row per class: Class; Precision, Recall, F1 in [0, 1]; Crops with that label, the Groups that hold them,
        and their Effective_groups.
    """
    counts = count_per_group(labels, probabilities.argmax(axis=1), np.zeros(len(labels), int), len(classes))
    (correct,), (labelled,), (predicted,) = counts
    table = pd.DataFrame(
        {
            "Class": classes,
            "Precision": correct / predicted.clip(min=1),
            "Recall": correct / labelled.clip(min=1),
            "F1": 2 * correct / (labelled + predicted).clip(min=1),
            "Crops": labelled.astype(int),
        }
    )
    groups_of_class = [groups[labels == label] for label in range(len(classes))]
    return table.assign(
        Groups=[len(np.unique(members)) for members in groups_of_class],
        Effective_groups=[effective_groups(members) for members in groups_of_class],
    )


def score_groups(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Score each group, be it a tile, a patient, or crops that share pixels.

    Args:
        labels: int (N,) in 0..K-1.
        predicted: int (N,) in 0..K-1.
        groups: (N,), any sortable values.
        classes: The K names.

    Returns:
        One row per group, the largest first: Group, Crops, Accuracy in [0, 1], and the crops of each class under its
        name.
    """
    names, group = np.unique(groups, return_inverse=True)
    counts = count_per_group(labels, predicted, group, len(classes))
    crops_of_class = counts.labelled.astype(int)
    table = pd.DataFrame({"Group": names, "Crops": crops_of_class.sum(axis=1), "Accuracy": accuracy(counts)})
    table = table.join(pd.DataFrame(crops_of_class, columns=list(classes)))
    return table.sort_values("Crops", ascending=False, kind="stable", ignore_index=True)


def count_per_group(labels: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int) -> Counts:
    """Count the crops of each group per class.

    Args:
        labels: int (N,) in 0..K-1.
        predicted: int (N,) in 0..K-1.
        group: int (N,) in 0..G-1.
        classes: K.
    """
    n_groups, correct = int(group.max()) + 1, labels == predicted

    def table(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        counts = np.bincount(rows * classes + columns, minlength=n_groups * classes)
        return counts.reshape(n_groups, classes).astype(float)

    return Counts(table(group[correct], labels[correct]), table(group, labels), table(group, predicted))


def accuracy(counts: Counts) -> np.ndarray:
    """Return the accuracy of each set of crops: float64 (R,)."""
    return counts.correct.sum(axis=1) / counts.labelled.sum(axis=1)


def balanced_accuracy(counts: Counts) -> np.ndarray:
    """Return the mean recall of the classes that occur in each set of crops: float64 (R,)."""
    return _mean_of_present(counts.correct / counts.labelled.clip(min=1), counts.labelled)


def macro_f1(counts: Counts) -> np.ndarray:
    """Return the mean F1 of the classes that occur in each set of crops: float64 (R,)."""
    f1 = 2 * counts.correct / (counts.labelled + counts.predicted).clip(min=1)
    return _mean_of_present(f1, counts.labelled)


COUNT_METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the losses of each crop, float64 (N,): the metrics that are means over crops."""
    true_class = probabilities[np.arange(len(labels)), labels]
    squares = (probabilities**2).sum(axis=1) - 2 * true_class + 1
    # scikit-learn's log_loss clips at the epsilon of the dtype, too
    return {"log_loss": -np.log(true_class.clip(min=np.finfo(np.float64).eps)), "brier": squares}


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    one_block = np.zeros(len(labels), int)
    positives = np.bincount(labels, minlength=probabilities.shape[1])
    aucs = np.zeros(len(positives))
    for label, scores in enumerate(probabilities.T):
        positive = labels == label
        aucs[label] = _ordered_pairs(scores, positive, one_block)[positive].sum()
    pairs = positives * (len(labels) - positives)
    return _mean_of_present((aucs / pairs.clip(min=1))[None], pairs[None])[0]


def _auc_without_each_group(labels: np.ndarray, probabilities: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Count the ordered pairs of all crops, less those that a group has a part in: no sort for each group."""
    n_groups, one_block = int(group.max()) + 1, np.zeros(len(labels), int)
    crops = len(labels) - np.bincount(group)
    aucs, pairs = np.zeros((2, n_groups, probabilities.shape[1]))
    for label, scores in enumerate(probabilities.T):
        positive = labels == label
        all_pairs, within = (_ordered_pairs(scores, positive, block) for block in (one_block, group))
        # A pair within the group is counted from both its ends: put back once.
        involved = np.bincount(group, all_pairs) - np.bincount(group[positive], within[positive], n_groups)
        positives = positive.sum() - np.bincount(group[positive], minlength=n_groups)
        pairs[:, label] = positives * (crops - positives)
        aucs[:, label] = (all_pairs[positive].sum() - involved) / pairs[:, label].clip(min=1)
    return _mean_of_present(aucs, pairs)


def _ordered_pairs(scores: np.ndarray, positive: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Count each crop's pairs with crops of its block on the other side that are in order, ties as half.

    Args:
        scores: float (N,); a pair is in order where the positive crop scores higher.
        positive: bool (N,), the side.
        block: int (N,).
    """
    order = np.lexsort((scores, block))
    side, sorted_block = positive[order], block[order]
    first = np.ones(len(scores), bool)  # of each run of equal scores in a block
    first[1:] = (np.diff(scores[order]) != 0) | (np.diff(sorted_block) != 0)
    starts, run = np.flatnonzero(first), np.cumsum(first) - 1
    first_run = run[np.searchsorted(sorted_block, sorted_block)]  # of each crop's block
    counts = np.zeros(len(scores))
    for mine in (True, False):
        others = np.add.reduceat((side != mine).astype(float), starts)
        below = np.cumsum(others) - others
        below_in_block = below[run] - below[first_run] + others[run] / 2
        if mine:
            counts[order[side]] = below_in_block[side]
        else:
            total = np.bincount(sorted_block, side)[sorted_block]
            counts[order[~side]] = (total - below_in_block)[~side]
    return counts


def _mean_of_present(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the classes (R, K) whose count is not zero: (R,), NaN where none is left."""
    present = counts > 0
    classes = present.sum(axis=1)
    return np.where(classes, (values * present).sum(axis=1) / classes.clip(min=1), np.nan)
