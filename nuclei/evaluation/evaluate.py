"""All that is said of how good one network is, from the predictions of crops whose fold it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nuclei.evaluation.calibration import accuracy_coverage_curve, expected_ece, reliability_curve
from nuclei.evaluation.intervals import score_intervals
from nuclei.evaluation.metrics import calibration_error, score, score_classes, score_groups
from nuclei.models.conformal import out_of_fold_sets, score_sets
from nuclei.models.temperature import fit_temperature, softmax
from nuclei.params import Evaluate

DRAWS = 1000  # of labels, for the calibration error of a perfectly calibrated network


@dataclass(frozen=True)
class Evaluation:
    """What one network comes to, over all held-out folds together.

    Attributes:
        scores: `score` with intervals, calibration and conformal sets, for a JSON file.
        predictions: One row per crop: Filename, Label, Fold, Group, Predicted, Probability_0..K-1, and the labels of
            its conformal Set.
        classes: One row per class, see `score_classes` and `score_sets`.
        groups: One row per group, see `score_groups`.
        reliability: See `reliability_curve`; calibrated is 1 after temperature scaling, 0 before it.
        selective: See `accuracy_coverage_curve`.
    """

    scores: dict[str, Any]
    predictions: pd.DataFrame
    classes: pd.DataFrame
    groups: pd.DataFrame
    reliability: pd.DataFrame
    selective: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, pd.DataFrame)}


def read_out_of_fold(folder: Path, split: pd.DataFrame, tta: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """Read what the networks in `folder` say of the crops that they did not see.

    Args:
        folder: One network's, written by the stage `train`.
        split: One row per crop: Filename, Label, Group, Fold.
        tta: Whether to take the logits that are averaged over the eight flips and rotations.

    Returns:
        The rows of `split` that were held out, and their logits, float32 (N, K).
    """
    with np.load(folder / "out_of_fold.npz") as arrays:
        return split.iloc[arrays["rows"]].reset_index(drop=True), arrays["averaged" if tta else "single"]


def cross_fit(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Calibrate the crops of each fold by the temperature of the other folds: none is fitted on what it is scored on.

    Args:
        logits: float (N, K), out of fold.
        labels: int (N,).
        folds: int (N,), at least two different ones.

    Returns:
        Probabilities, float64 (N, K), and the temperatures, rising.
    """
    probabilities, temperatures = np.empty(logits.shape, np.float64), []
    for fold in np.unique(folds):
        inside = folds == fold
        temperatures.append(fit_temperature(logits[~inside], labels[~inside]))
        probabilities[inside] = softmax(logits[inside], temperatures[-1])
    return probabilities, sorted(temperatures)


def evaluate(crops: pd.DataFrame, logits: np.ndarray, classes: Sequence[str], settings: Evaluate) -> Evaluation:
    """Evaluate one network on pooled out-of-fold predictions.

    Args:
        crops: One row per crop: Filename, Label, Group, Fold.
        logits: float (N, K), each from a network that did not train on the crop's fold.
        classes: The K names.
        settings: The section `evaluate` of params.yaml.
    """
    labels, groups, folds = (crops[name].to_numpy() for name in ("Label", "Group", "Fold"))
    bins, seed = settings.bins, settings.seed
    probabilities, temperatures = cross_fit(logits, labels, folds)
    unscaled = softmax(logits)
    sets, promised = out_of_fold_sets(labels, probabilities, groups, folds, settings.target_coverage)
    by_group = score_groups(labels, probabilities.argmax(axis=1), groups, classes)
    calibrated = expected_ece(probabilities, bins, seed, DRAWS)
    scores = score(labels, probabilities, bins) | {
        "ece_if_calibrated": calibrated.mean,
        "ece_if_calibrated_high": calibrated.high,
        "ece_unscaled": calibration_error(labels, unscaled, bins),
        "temperature_low": temperatures[0],
        "temperature_high": temperatures[-1],
        "set_coverage": float(sets[np.arange(len(labels)), labels].mean()),
        "set_coverage_promised": promised,
        "set_size": float(sets.sum(axis=1).mean()),
        "mean_accuracy_over_groups": float(by_group["Accuracy"].mean()),
        "folds": len(temperatures),
    }
    reliability = [reliability_curve(labels, values, bins, seed, DRAWS) for values in (probabilities, unscaled)]
    columns = {f"Probability_{label}": values for label, values in enumerate(probabilities.T)}
    return Evaluation(
        scores=scores | score_intervals(labels, probabilities, groups, classes),
        predictions=crops[["Filename", "Label", "Fold", "Group"]].assign(
            Predicted=probabilities.argmax(axis=1),
            **columns,
            Set=[" ".join(map(str, np.flatnonzero(row))) for row in sets],
        ),
        classes=pd.merge(score_classes(labels, probabilities, groups, classes), score_sets(labels, sets, classes)),
        groups=by_group,
        reliability=pd.concat([curve.assign(calibrated=n) for n, curve in zip((1, 0), reliability, strict=True)]),
        selective=accuracy_coverage_curve(labels, probabilities),
    )
