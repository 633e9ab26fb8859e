"""What a probability is worth: reliability, abstention, conformal sets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nuclei.evaluation.metrics import confidence_bins


def reliability_curve(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> pd.DataFrame:
    """Return a row a bin of confidence that is not empty: confidence, accuracy (means in [0, 1]), crops.

    The bins are those of `nuclei.metrics.calibration_error`: equally wide, over [0, 1].
    """
    right = probabilities.argmax(axis=1) == labels
    table = pd.DataFrame({"confidence": probabilities.max(axis=1), "accuracy": right.astype(float), "crops": 1})
    by_bin = table.groupby(confidence_bins(probabilities, bins))
    return by_bin.agg({"confidence": "mean", "accuracy": "mean", "crops": "sum"}).reset_index(drop=True)


def accuracy_coverage_curve(labels: np.ndarray, probabilities: np.ndarray, steps: int = 100) -> pd.DataFrame:
    """Return the accuracy of the surest crops alone: coverage (share answered), threshold (of confidence), accuracy.

    A row for each 1 / `steps` of the crops, the surest first; crops of equal confidence are answered together.
    Source: Geifman & El-Yaniv 2017, "Selective classification for deep neural networks".
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    falling, n = confidence[order], len(labels)
    thresholds = falling[np.ceil(np.arange(1, steps + 1) * n / steps).astype(int) - 1]
    answered = np.unique(np.searchsorted(-falling, -thresholds, side="right"))
    right = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    return pd.DataFrame(
        {"coverage": answered / n, "threshold": falling[answered - 1], "accuracy": right[answered - 1] / answered}
    )


def conformal_threshold(labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> float:
    """Return the probability from which a class belongs to a crop's conformal set.

    The sets of new crops, exchangeable with these, hold the true class with a probability of at least `coverage`.
    Too few crops for that: 0, every class belongs.
    Source: Sadinle et al. 2019, "Least ambiguous set-valued classifiers with bounded error levels" (LAC); the rank as
    in Angelopoulos & Bates 2023, "Conformal prediction: a gentle introduction", section 1.
    """
    own = np.sort(probabilities[np.arange(len(labels)), labels])[::-1]
    rank = int(np.ceil((len(labels) + 1) * coverage))
    return float(own[rank - 1]) if rank <= len(labels) else 0.0


def conformal_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the conformal set of each crop, bool (N, K): the classes that reach `threshold`, and always the likeliest.

    Without the latter, a network that is right more often than the coverage asks for would give empty sets.
    """
    likeliest = np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]
    return likeliest | (probabilities >= threshold)


def score_sets(labels: np.ndarray, sets: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Score sets of classes, bool (N, K), by true class: Class, Set_coverage (share that hold it), Set_size (mean)."""
    table = pd.DataFrame({"Set_coverage": sets[np.arange(len(labels)), labels], "Set_size": sets.sum(axis=1)})
    means = table.astype(float).groupby(labels).mean().reindex(range(len(classes)))
    return means.rename_axis("Class").rename(dict(enumerate(classes))).reset_index()
