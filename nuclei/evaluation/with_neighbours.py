"""What it adds to weigh in the neighbours of each nucleus, measured on crops whose fold a network never saw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nuclei.crops import Places
from nuclei.evaluation.comparison import compare
from nuclei.evaluation.intervals import score_intervals
from nuclei.evaluation.metrics import score
from nuclei.models.neighbours import add_neighbours, fit_weights, mean_of_neighbours


def evaluate_with_neighbours(
    predictions: pd.DataFrame, places: Places, classes: Sequence[str], title: str, bins: int
) -> dict[str, Any]:
    """Score one network with and without neighbours, whose weights come from the other folds.

    Args:
        predictions: Those of `nuclei.evaluation.evaluate.Evaluation`.
        places: Of the crops.
        classes: The K names.
        title: Of the network.
        bins: Of `nuclei.evaluation.metrics.score`.

    Returns:
        with_neighbours, the share of the crops that have any; the scores of `score` among neighbours, with intervals;
        and comparison, the network with neighbours against the network alone, see `compare`.
    """
    labels, groups, folds = (predictions[name].to_numpy() for name in ("Label", "Group", "Fold"))
    alone = predictions[[f"Probability_{label}" for label in range(len(classes))]].to_numpy()
    around = mean_of_neighbours(alone, places)
    together = cross_fit_neighbours(alone, around, labels, folds)
    predicted = {title: alone.argmax(axis=1), f"{title} with neighbours": together.argmax(axis=1)}
    scores = score(labels, together, bins) | score_intervals(labels, together, groups, classes)
    share = float((~np.isnan(around[:, 0])).mean())
    return {"with_neighbours": share, **scores, "comparison": compare(labels, predicted, groups, classes)}


def cross_fit_neighbours(
    probabilities: np.ndarray,
    around: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Weigh in the neighbours of the crops of each fold as the other folds say.

    Args:
        probabilities: float (N, K), calibrated, out of fold.
        around: float (N, K), from `nuclei.models.neighbours.mean_of_neighbours`.
        labels: int (N,).
        folds: int (N,), at least two different ones.
        known: float (N, K), from `nuclei.models.neighbours.labels_around`: weighed in instead of `around`, which the
            weights are fitted on all the same; None: `around` is.

    Returns:
        float64 (N, K), rows sum to 1.
    """
    together, shown = probabilities.copy(), around if known is None else known
    for fold in np.unique(folds):
        inside = folds == fold
        weights = fit_weights(probabilities[~inside], around[~inside], labels[~inside])
        if weights:
            together[inside] = add_neighbours(probabilities[inside], shown[inside], weights)
    return together
