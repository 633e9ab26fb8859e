"""What a probability is worth: reliability, selective prediction, changed class frequencies."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nuclei.evaluation.metrics import confidence_bins


class ExpectedECE(NamedTuple):
    """Calibration error that pure chance gives a perfectly calibrated network.

    Attributes:
        mean: In [0, 1].
        low: 2.5 % quantile.
        high: 97.5 % quantile.
    """

    mean: float
    low: float
    high: float


def expected_ece(probabilities: np.ndarray, bins: int, seed: int, draws: int) -> ExpectedECE:
    """Return the ece that a perfectly calibrated network with these probabilities would get.

    An ece within this range is no sign of miscalibration; above it is. Crops are drawn independently, so for crops
    that are alike within groups the true range is wider.

    Args:
        probabilities: float (N, K).
        bins: Of `nuclei.evaluation.metrics.calibration_error`.
        seed: Of the draws.
        draws: How often all labels are redrawn from the probabilities, such as 1000.

    Source: Broecker & Smith 2007, "Increasing the reliability of reliability diagrams" (consistency resampling);
        Vaicenavicius et al. 2019, "Evaluating model calibration in classification".
    """
    bin_of_crop, confidence = confidence_bins(probabilities, bins), probabilities.max(axis=1)
    correct = _redraw_correct(bin_of_crop, confidence, bins, seed, draws)
    errors = np.abs(correct - np.bincount(bin_of_crop, confidence, bins)).sum(axis=1) / len(confidence)
    low, high = np.quantile(errors, [0.025, 0.975])
    return ExpectedECE(float(errors.mean()), float(low), float(high))


def reliability_curve(labels: np.ndarray, probabilities: np.ndarray, bins: int, seed: int, draws: int) -> pd.DataFrame:
    """Return the accuracy in each bin of confidence, and where perfect calibration would put it.

    The bins are those of `nuclei.evaluation.metrics.calibration_error`: equally wide, over [0, 1].

    Args:
        labels: int (N,).
        probabilities: float (N, K).
        bins: Number of bins.
        seed: Of the draws.
        draws: For the consistency band, see `expected_ece`.

    Returns:
        One row per bin that is not empty: confidence, accuracy (means in [0, 1]), crops; low and high, the 95 % range
        of the accuracy of a perfectly calibrated network in this bin.

    Source: Broecker & Smith 2007 (as in `expected_ece`), consistency bars.
    """
    bin_of_crop, confidence = confidence_bins(probabilities, bins), probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == labels).astype(float)
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct, "crops": 1})
    table = table.groupby(bin_of_crop).agg({"confidence": "mean", "accuracy": "mean", "crops": "sum"})
    redrawn = _redraw_correct(bin_of_crop, confidence, bins, seed, draws)[:, table.index] / table["crops"].to_numpy()
    low, high = np.quantile(redrawn, [0.025, 0.975], axis=0)
    return table.assign(low=low, high=high).reset_index(drop=True)


def _redraw_correct(bin_of_crop: np.ndarray, confidence: np.ndarray, bins: int, seed: int, draws: int) -> np.ndarray:
    """Return the correct crops per bin if each is correct with the probability of its confidence: int (draws, bins)."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.bincount(bin_of_crop[rng.random(len(confidence)) < confidence], minlength=bins) for _ in range(draws)]
    )


def accuracy_coverage_curve(labels: np.ndarray, probabilities: np.ndarray, steps: int = 100) -> pd.DataFrame:
    """Return the accuracy on the most confident crops alone (selective prediction).

    Args:
        labels: int (N,).
        probabilities: float (N, K).
        steps: Points of the curve; fewer come back where crops of equal confidence are selected together.

    Returns:
        One row per 1 / `steps` of the crops, the most confident first: selected_fraction, threshold (of confidence),
        accuracy, all in [0, 1].

    Source: Geifman & El-Yaniv 2017, "Selective classification for deep neural networks".
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    falling, n = confidence[order], len(labels)
    thresholds = falling[np.ceil(np.arange(1, steps + 1) * n / steps).astype(int) - 1]
    selected = np.unique(np.searchsorted(-falling, -thresholds, side="right"))
    correct = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    return pd.DataFrame(
        {
            "selected_fraction": selected / n,
            "threshold": falling[selected - 1],
            "accuracy": correct[selected - 1] / selected,
        }
    )
