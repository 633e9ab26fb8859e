"""What happens to the scores when the stain is stronger or weaker than it was in training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn

from nuclei.models.predict import BATCH_SIZE, predict_logits
from nuclei.models.transforms import stain_jitter

STAINS = ("haematoxylin", "eosin")


def stain_shift(
    network: nn.Module,
    crops: np.ndarray,
    labels: np.ndarray,
    factors: Sequence[float],
    device: torch.device,
    precision: str,
) -> pd.DataFrame:
    """Score crops whose haematoxylin or eosin is `factors` times as strong, the other stain as it is.

    crops: uint8 (N, H, W, C), may be memory-mapped; labels: int (N,).
    Returns a row a factor: factor, and for each stain <stain>_accuracy and <stain>_balanced_accuracy. Grey crops have
    one density; it counts as haematoxylin, and eosin changes nothing.
    Stains are separated as by scikit-image's HED matrix (Ruifrok & Johnston 2001); see `stain_jitter`.
    """
    strengths = np.ones((len(STAINS), len(factors), 3), np.float32)
    for stain in range(len(STAINS)):
        strengths[stain, :, stain] = factors
    conditions, place = np.unique(strengths.reshape(-1, 3), axis=0, return_inverse=True)  # both stains have a 1
    predicted = np.empty((len(conditions), len(crops)), np.int64)
    for start in range(0, len(crops), BATCH_SIZE):
        batch = torch.from_numpy(np.array(crops[start : start + BATCH_SIZE])).to(device)
        for row, condition in zip(predicted, torch.from_numpy(conditions).to(device), strict=True):
            stained = stain_jitter(batch, condition.expand(len(batch), 3), torch.zeros(len(batch), 3, device=device))
            logits = predict_logits(network, stained.round().byte().cpu().numpy(), device, precision)
            row[start : start + len(batch)] = logits.argmax(axis=1)
    table = {"factor": list(factors)}
    for stain, rows in zip(STAINS, place.reshape(len(STAINS), -1), strict=True):
        table[f"{stain}_accuracy"] = [accuracy_score(labels, predicted[row]) for row in rows]
        table[f"{stain}_balanced_accuracy"] = [balanced_accuracy_score(labels, predicted[row]) for row in rows]
    return pd.DataFrame(table)
