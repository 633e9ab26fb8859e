"""From logits to probabilities and conformal sets that can be trusted, fitted on out-of-fold predictions."""

from dataclasses import dataclass

import numpy as np

from nuclei.crops import Places
from nuclei.models.conformal import conformal_threshold
from nuclei.models.neighbours import add_neighbours, fit_weights, mean_of_neighbours
from nuclei.models.temperature import fit_temperature, softmax

TARGETS = (0.8, 0.9, 0.95)  # coverages that a checkpoint has a threshold for


@dataclass(frozen=True)
class Neighbourhood:
    """What turns the probabilities of a nucleus and of its neighbours into those of the nucleus among them, and sets.

    Attributes:
        weights: 1 + K, from `nuclei.models.neighbours.fit_weights`.
        thresholds: As of `Calibration`.
        promised: As of `Calibration`.
    """

    weights: tuple[float, ...]
    thresholds: tuple[float, ...]
    promised: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What turns the logits of one way to predict into probabilities and sets of classes.

    Attributes:
        temperature: Divides the logits before the softmax, in [0.05, 20].
        thresholds: Of each of `TARGETS`, the probability from which a class belongs to a crop's conformal set.
        promised: Of each of `TARGETS`, the coverage for new groups that the calibration groups allow.
        neighbourhood: For nuclei whose places are known; None where none of the crops that it was fitted on had a
            neighbour.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = (0.0,) * len(TARGETS)
    promised: tuple[float, ...] = (0.0,) * len(TARGETS)
    neighbourhood: Neighbourhood | None = None


def fit_calibration(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, places: Places) -> Calibration:
    """Fit the temperature, the weight of neighbours, and the thresholds of conformal sets with and without these.

    Args:
        logits: float (N, K), of crops that the networks did not train on.
        labels: int (N,).
        groups: (N,), any sortable values: tiles, patients, or what shares pixels.
        places: Of the crops.
    """
    temperature = fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    around = mean_of_neighbours(probabilities, places)
    weights, neighbourhood = fit_weights(probabilities, around, labels), None
    if weights:
        together = add_neighbours(probabilities, around, weights)
        neighbourhood = Neighbourhood(weights, *_fit_thresholds(labels, together, groups))
    return Calibration(temperature, *_fit_thresholds(labels, probabilities, groups), neighbourhood)


def _fit_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the threshold for each of `TARGETS`, and the coverage that it promises."""
    pairs = [conformal_threshold(labels, probabilities, groups, target) for target in TARGETS]
    thresholds, promised = zip(*pairs, strict=True)
    return thresholds, promised
