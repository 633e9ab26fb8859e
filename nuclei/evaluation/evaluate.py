"""All that is said of how well one network does on held-out crops."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nuclei.evaluation.calibration import (
    accuracy_coverage_curve,
    conformal_sets,
    conformal_threshold,
    reliability_curve,
    score_sets,
)
from nuclei.evaluation.metrics import calibration_error, score, score_classes, score_intervals
from nuclei.params import Evaluate
from nuclei.task import CLASSES
from nuclei.temperature import softmax


@dataclass(frozen=True)
class Evaluation:
    """What one network comes to.

    scores: `score` with intervals, calibration, conformal sets; predictions: a row a crop, see `tabulate`, with the
    labels of its conformal Set; classes: a row a class; reliability: curves before and after temperature scaling;
    abstention: see `accuracy_coverage_curve`
    """

    scores: dict[str, Any]
    predictions: pd.DataFrame
    classes: pd.DataFrame
    reliability: tuple[pd.DataFrame, pd.DataFrame]
    abstention: pd.DataFrame


def evaluate(
    holdout: pd.DataFrame,
    logits: np.ndarray,
    validation_labels: np.ndarray,
    validation_logits: np.ndarray,
    temperature: float,
    resamples: np.ndarray,
    settings: Evaluate,
) -> Evaluation:
    """Evaluate one network.

    holdout: Filename, Label and Group of the N held-out crops; logits: float (N, K)
    validation_labels, validation_logits: of the validation fold, which sets the size of the conformal sets
    resamples: of the groups, see `draw_resamples`
    """
    labels, groups, bins = holdout["Label"].to_numpy(), holdout["Group"].to_numpy(), settings.bins
    probabilities, unscaled = softmax(logits, temperature), softmax(logits)
    of_validation = softmax(validation_logits, temperature)
    threshold = conformal_threshold(validation_labels, of_validation, settings.coverage)
    sets = conformal_sets(probabilities, threshold)
    scores = score(labels, probabilities, bins) | {
        "ece_unscaled": calibration_error(labels, unscaled, bins),
        "temperature": temperature,
        "set_coverage": float(sets[np.arange(len(labels)), labels].mean()),
        "set_size": float(sets.sum(axis=1).mean()),
    }
    return Evaluation(
        scores | score_intervals(labels, probabilities, groups, resamples, bins),
        tabulate(holdout, probabilities).assign(Set=[" ".join(map(str, np.flatnonzero(row))) for row in sets]),
        pd.merge(score_classes(labels, probabilities, CLASSES), score_sets(labels, sets, CLASSES)),
        (reliability_curve(labels, unscaled, bins), reliability_curve(labels, probabilities, bins)),
        accuracy_coverage_curve(labels, probabilities),
    )


def tabulate(index: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Return Filename and Label of `index` with Predicted and Probability_0 to Probability_K-1 of each crop."""
    columns = {f"Probability_{label}": chances for label, chances in enumerate(probabilities.T)}
    return index[["Filename", "Label"]].assign(Predicted=probabilities.argmax(axis=1), **columns)
