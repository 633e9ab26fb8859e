"""What happens to the scores when crops look otherwise than in training."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from nuclei.corruptions import Corruption
from nuclei.crops import stain_jitter

STAINS = ("haematoxylin", "eosin")
BATCH = 512  # crops changed at once: a multiple of the batches of `predict_logits`, so that those stay what they were


def stain_corruptions(factors: Sequence[float]) -> list[Corruption]:
    """Return corruptions "haematoxylin" and "eosin": that stain `factors` times as strong, the other as it is.

    The severity is the factor, above 0. Grey crops have one density; it counts as haematoxylin, and eosin changes
    nothing. Training changes stains in the same way (see `stain_jitter`), within `stain`: what the network has seen.
    Stains are separated by scikit-image's HED matrix (Ruifrok & Johnston 2001).
    """
    return [
        Corruption(name, factor, partial(strengthen_stain, stain=stain, factor=factor))
        for stain, name in enumerate(STAINS)
        for factor in factors
    ]


def strengthen_stain(crops: np.ndarray, stain: int, factor: float) -> np.ndarray:
    """Make a stain (0 haematoxylin, 1 eosin) `factor` times as strong: uint8 (N, H, W, C), returned likewise."""
    factors = torch.ones(len(crops), 3)
    factors[:, stain] = factor
    return stain_jitter(torch.from_numpy(np.array(crops)), factors, torch.zeros_like(factors)).round().byte().numpy()


def predict_under(
    predict: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, corruptions: Sequence[Corruption]
) -> np.ndarray:
    """Return the class of each crop under each corruption, int64 (M, N).

    Networks of several folds: call this per fold with its network and its held-out crops, and put the columns together.

    Args:
        predict: from crops, uint8 (n, H, W, C), to logits or probabilities, float (n, K), with views averaged or not.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        corruptions: M of them.
    """
    predicted = np.empty((len(corruptions), len(crops)), np.int64)
    for start in range(0, len(crops), BATCH):
        batch = np.asarray(crops[start : start + BATCH])
        for corruption, row in zip(corruptions, predicted, strict=True):
            row[start : start + len(batch)] = predict(corruption.apply(batch)).argmax(axis=1)
    return predicted


def score_under(labels: np.ndarray, predicted: np.ndarray, corruptions: Sequence[Corruption]) -> pd.DataFrame:
    """Return a row per corruption: corruption, severity, accuracy, balanced_accuracy.

    labels: int (N,); predicted: int (M, N), of `predict_under`; corruptions: M of them.
    """
    return pd.DataFrame(
        {
            "corruption": [corruption.name for corruption in corruptions],
            "severity": [float(corruption.severity) for corruption in corruptions],
            "accuracy": [accuracy_score(labels, row) for row in predicted],
            "balanced_accuracy": [balanced_accuracy_score(labels, row) for row in predicted],
        }
    )
