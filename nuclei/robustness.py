"""What happens to the scores when the stain is stronger or weaker than it was in training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn

from nuclei.crops import stain_jitter
from nuclei.predict import BATCH_SIZE, predict_logits

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
    strengths = torch.ones(len(STAINS), len(factors), 3)
    for stain in range(len(STAINS)):
        strengths[stain, :, stain] = torch.tensor(factors)
    predicted = np.empty((*strengths.shape[:2], len(crops)), np.int64)
    for start in range(0, len(crops), BATCH_SIZE):
        batch = torch.from_numpy(np.array(crops[start : start + BATCH_SIZE])).to(device)
        unshifted = torch.zeros(len(batch), 3, device=device)
        for stain, place in np.ndindex(predicted.shape[:2]):
            stained = stain_jitter(batch, strengths[stain, place].to(device).expand(len(batch), 3), unshifted)
            logits = predict_logits(network, stained.cpu().numpy(), device, precision)
            predicted[stain, place, start : start + len(batch)] = logits.argmax(axis=1)
    table = {"factor": list(factors)}
    for name, guesses in zip(STAINS, predicted, strict=True):
        for metric in (accuracy_score, balanced_accuracy_score):
            table[f"{name}_{metric.__name__.removesuffix('_score')}"] = [metric(labels, guess) for guess in guesses]
    return pd.DataFrame(table)
