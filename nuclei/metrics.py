"""Scores of predictions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits (N, K) into probabilities, float64 (N, K)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def score(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> dict[str, float]:
    """Score probabilities (N, K) against labels, int (N,); every class must occur.

    auc: mean over the classes of each against the rest; ece: see `calibration_error`; log_loss in nats
    """
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "auc": float(roc_auc_score(labels, probabilities, multi_class="ovr")),
        "log_loss": float(log_loss(labels, probabilities, labels=range(probabilities.shape[1]))),
        "ece": calibration_error(labels, probabilities, bins),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence and accuracy in equal bins of confidence.

    Source: Guo et al. 2017, "On calibration of modern neural networks", eq. 3.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def score_classes(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Return a row a class: Class, Precision, Recall, F1 in [0, 1], Crops (with that label)."""
    predicted = probabilities.argmax(axis=1)
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0.0)
    return pd.DataFrame(dict(zip(("Class", "Precision", "Recall", "F1", "Crops"), (classes, *columns), strict=True)))
