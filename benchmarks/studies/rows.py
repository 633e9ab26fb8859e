"""Rows of a table that compares predictions of the same crops."""

from collections.abc import Sequence

import numpy as np

from benchmarks.markdown import with_interval
from nuclei.evaluation.comparison import compare
from nuclei.evaluation.intervals import score_intervals
from nuclei.evaluation.metrics import score

COMPARED = ("accuracy", "balanced_accuracy")


def describe(
    probabilities: np.ndarray,
    before: np.ndarray | None,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: tuple[str, ...],
    metrics: Sequence[str] = COMPARED,
) -> list[str]:
    """Return cells: each metric with its interval; the differences of `COMPARED` from before, with theirs, and p.

    Args:
        probabilities: float (N, K).
        before: float (N, K), what the differences are from; None: their cells and that of p are empty.
        labels: int (N,).
        groups: (N,).
        classes: The K names.
        metrics: Of `nuclei.evaluation.intervals.score_intervals`.
    """
    scores = score(labels, probabilities, bins=1) | score_intervals(labels, probabilities, groups, classes)
    cells = [with_interval(scores, metric, ".3f") for metric in metrics]
    if before is None:
        return [*cells, *[""] * (len(COMPARED) + 1)]
    predicted = {"before": before.argmax(axis=1), "after": probabilities.argmax(axis=1)}
    comparison = compare(labels, predicted, groups, classes)
    differences = (with_interval(comparison, f"{metric}_difference", "+.3f") for metric in COMPARED)
    return [*cells, *differences, f"{comparison['p_value']:.2g}"]
