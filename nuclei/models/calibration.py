"""From logits to probabilities and conformal sets that can be trusted, fitted on out-of-fold predictions."""

from dataclasses import dataclass

import numpy as np

from nuclei.models.conformal import conformal_threshold
from nuclei.models.temperature import fit_temperature, softmax

TARGETS = (0.8, 0.9, 0.95)  # coverages that a checkpoint has a threshold for


@dataclass(frozen=True)
class Calibration:
    """What turns the logits of one way to predict into probabilities and sets of classes.

    Attributes:
        temperature: Divides the logits before the softmax, in [0.05, 20].
        thresholds: Of each of `TARGETS`, the probability from which a class belongs to a crop's conformal set.
        promised: Of each of `TARGETS`, the coverage for new groups that the calibration groups allow.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = (0.0,) * len(TARGETS)
    promised: tuple[float, ...] = (0.0,) * len(TARGETS)


def fit_calibration(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Calibration:
    """Fit the temperature and the thresholds of conformal sets.

    Args:
        logits: float (N, K), of crops that the networks did not train on.
        labels: int (N,).
        groups: (N,), any sortable values: tiles, patients, or what shares pixels.
    """
    temperature = fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    pairs = [conformal_threshold(labels, probabilities, groups, target) for target in TARGETS]
    thresholds, promised = zip(*pairs, strict=True)
    return Calibration(temperature, thresholds, promised)
