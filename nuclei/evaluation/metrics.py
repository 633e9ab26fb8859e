"""Scores of predictions, their intervals, and whether two models differ by more than luck."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "ece")
LEVEL = 0.95  # of every interval
FEWEST_GROUPS = 6  # that can tell two models apart: of five, all lean to the same one by luck in 2 of 2^5 = 6 %
VALUES_AT_ONCE = 4_000_000  # resamples x crops that are weighed together: memory stays flat


def score(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> dict[str, float]:
    """Score probabilities (N, K) against labels, int (N,).

    auc: mean over the classes of each against the rest; ece: see `calibration_error`; log_loss in nats.
    Means over classes take the classes that occur; auc is NaN where fewer than two do.
    """
    once = np.ones((1, len(labels)))
    return {metric: float(values[0]) for metric, values in _score_weighted(labels, probabilities, once, bins).items()}


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence and accuracy in equal bins of confidence.

    Source: Guo et al. 2017, "On calibration of modern neural networks", eq. 3.
    """
    return float(np.abs(_gaps(labels, probabilities, bins).sum(axis=0)).sum() / len(labels))


def confidence_bins(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each crop's confidence, int (N,) in 0..bins-1: equally wide, over [0, 1]."""
    return np.minimum((probabilities.max(axis=1) * bins).astype(int), bins - 1)


def score_classes(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Return a row a class: Class, Precision, Recall, F1 in [0, 1], Crops (with that label)."""
    predicted = probabilities.argmax(axis=1)
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0.0)
    return pd.DataFrame(dict(zip(("Class", "Precision", "Recall", "F1", "Crops"), (classes, *columns), strict=True)))


def draw_resamples(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw as many groups as there are, with replacement, `resamples` times: how often each group came, int (R, G).

    groups: (N,), any values that can be sorted; G: the distinct ones, sorted. Whole groups are drawn since crops of
    one tissue are alike: drawn one by one, they would promise far too narrow intervals.
    Source: Davison & Hinkley 1997, "Bootstrap methods and their application", section 3.8.
    """
    n = len(np.unique(groups))
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def score_intervals(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, resamples: np.ndarray, bins: int
) -> dict[str, Any]:
    """Return the 95 % percentile interval of every metric of `score` as <metric>_low and <metric>_high.

    groups: (N,); resamples: of these groups, by `draw_resamples`. A resample that lacks a class takes its means over
    the classes that it has, and `resamples_lacking_a_class` is the share of those; one without an auc is left out of
    the interval of the auc. A single group says nothing of others: None for every bound.
    """
    values, group = np.unique(groups, return_inverse=True)
    step = max(VALUES_AT_ONCE // len(labels), 1)
    parts = [
        _score_weighted(labels, probabilities, resamples[start : start + step, group], bins)
        for start in range(0, len(resamples), step)
    ]
    intervals = {}
    for metric in METRICS:
        intervals |= _interval(metric, np.concatenate([part[metric] for part in parts]), resamples)
    crops_of_class = resamples @ _confusion(labels, labels, group).sum(axis=1)[:, np.unique(labels)]
    lacking = float((crops_of_class == 0).any(axis=1).mean())
    return intervals | {"crops": len(labels), "groups": len(values), "resamples_lacking_a_class": lacking}


def mean_and_spread(scores: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return mean and standard deviation over the rows (folds) of each metric; NaN left out, None if all are."""
    values = scores[list(METRICS)].agg(["mean", "std"]).rename({"std": "spread"})
    return {metric: {key: None if np.isnan(v) else float(v) for key, v in values[metric].items()} for metric in METRICS}


def compare(
    labels: np.ndarray, predicted: Mapping[str, np.ndarray], groups: np.ndarray, resamples: np.ndarray
) -> dict[str, Any]:
    """Compare two models on the same crops: is the difference luck?

    labels: int (N,); predicted: int (N,) of each of two models, by its name; groups: (N,); resamples: of these groups.
    Differences are the second model's score less the first's, with 95 % intervals from resampling both alike.
    mcnemar_p: exact and two-sided (McNemar 1947); it takes crops for independent, which those of one group are not, so
    the sentence under `is_it_luck` goes by the interval.
    """
    (one, first), (other, second) = predicted.items()
    only = {
        one: int(((first == labels) & (second != labels)).sum()),
        other: int(((second == labels) & (first != labels)).sum()),
    }
    _, group = np.unique(groups, return_inverse=True)
    confusions = _confusion(labels, first, group), _confusion(labels, second, group)
    once = np.ones((1, resamples.shape[1]))
    result = {
        "crops": len(labels),
        "groups": int(resamples.shape[1]),
        "right_alone": only,
        "mcnemar_p": float(binomtest(only[one], sum(only.values())).pvalue) if any(only.values()) else 1.0,
    }
    for metric, of_confusion in (("accuracy", _accuracy), ("balanced_accuracy", _balanced_accuracy)):
        difference, drawn = (
            of_confusion(np.tensordot(counts, confusions[1], axes=1))
            - of_confusion(np.tensordot(counts, confusions[0], axes=1))
            for counts in (once, resamples)
        )
        result[f"{metric}_difference"] = float(difference[0])
        result |= _interval(f"{metric}_difference", drawn, resamples)
    return result | {"is_it_luck": _is_it_luck(one, other, result)}


def _is_it_luck(one: str, other: str, result: Mapping[str, Any]) -> str:
    difference, low, high = (result[f"accuracy_difference{end}"] for end in ("", "_low", "_high"))
    crops, groups = f"{result['crops']:,} held-out crops", f"{result['groups']:,} groups"
    if difference == 0:
        found = f"{one} and {other} get the same number of the {crops} right"
    else:
        more = "more" if difference > 0 else "fewer"
        found = f"{other} gets {100 * abs(difference):.1f} points {more} of the {crops} right than {one}"
    if result["groups"] < FEWEST_GROUPS:
        return f"Cannot be told: {found}, but these are of {groups} only."
    answer = "Probably not" if low > 0 or high < 0 else "It may be"
    return (
        f"{answer}: {found}; resampling their {groups} puts the difference between {100 * low:+.1f} and "
        f"{100 * high:+.1f} points (95 %; McNemar, as if crops were independent: p = {result['mcnemar_p']:.2g})."
    )


def _interval(name: str, drawn: np.ndarray, resamples: np.ndarray) -> dict[str, float | None]:
    """Percentiles of `drawn` (R,), NaN left out."""
    drawn = drawn[~np.isnan(drawn)]
    if resamples.shape[1] < 2 or not len(drawn):
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _score_weighted(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """Score with each crop counted `weights` (R, N) times: float64 (R,) a metric."""
    n, classes = probabilities.shape
    chance = np.clip(probabilities[np.arange(n), labels], np.finfo(np.float64).eps, None)
    confusion = _confusion(labels, probabilities.argmax(axis=1), np.arange(n), classes)
    crops = weights.sum(axis=1)
    confusion = np.tensordot(weights, confusion, axes=1)
    return {
        "accuracy": _accuracy(confusion),
        "balanced_accuracy": _balanced_accuracy(confusion),
        "macro_f1": _macro_f1(confusion),
        "auc": _auc(labels, probabilities, weights),
        "log_loss": weights @ -np.log(chance) / crops,
        "ece": np.abs(weights @ _gaps(labels, probabilities, bins)).sum(axis=1) / crops,
    }


def _confusion(labels: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Count crops by group, label and prediction: float64 (G, K, K). group: int (N,) in 0..G-1."""
    classes = classes or int(max(labels.max(), predicted.max())) + 1
    counts = np.zeros((group.max() + 1, classes, classes))
    np.add.at(counts, (group, labels, predicted), 1)
    return counts


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum(axis=(1, 2))


def _balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    right, true = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
    return _mean_of_present(right / true.clip(min=1), true)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    right, true, guessed = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)
    return _mean_of_present(2 * right / (true + guessed).clip(min=1), true)


def _auc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes of the share of (own, other) pairs that are in order, ties counted half."""
    aucs, pairs = [], []
    for label, chances in enumerate(probabilities.T):
        order = np.argsort(chances, kind="stable")
        starts = np.flatnonzero(np.diff(chances[order], prepend=-1))  # of each run of equal chances
        ranked, own = weights[:, order], labels[order] == label
        inside, outside = (np.add.reduceat(ranked * which, starts, axis=1) for which in (own, ~own))
        below = np.cumsum(outside, axis=1) - outside / 2
        pairs.append(inside.sum(axis=1) * outside.sum(axis=1))
        aucs.append((inside * below).sum(axis=1) / pairs[-1].clip(min=1))
    return _mean_of_present(np.stack(aucs, axis=1), np.stack(pairs, axis=1))


def _mean_of_present(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the classes (R, K) whose count is not zero: (R,), NaN where none is left."""
    there = counts > 0
    classes = there.sum(axis=1)
    return np.where(classes, (values * there).sum(axis=1) / classes.clip(min=1), np.nan)


def _gaps(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Put each crop's accuracy (0 or 1) less its confidence into its bin of confidence: float64 (N, bins)."""
    gaps = np.zeros((len(labels), bins))
    gap = (probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1)
    gaps[np.arange(len(labels)), confidence_bins(probabilities, bins)] = gap
    return gaps
