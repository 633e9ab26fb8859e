"""What a network says of crops."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from nuclei.crops import normalise
from nuclei.device import autocast
from nuclei.models import Model
from nuclei.temperature import softmax

BATCH_SIZE = 64  # the layers' outputs stay small enough to be kept in the cache and to be allocated without page faults


@torch.inference_mode()
def predict_logits(
    network: nn.Module, crops: np.ndarray, device: torch.device, precision: str, tta: bool = False
) -> np.ndarray:
    """Return logits, float32 (N, K), of crops, uint8 (N, H, W, C); they may be memory-mapped.

    tta: average the logits over the eight flips and turns of each crop
    """
    network.eval().to(device)
    parts = []
    for start in range(0, len(crops), BATCH_SIZE):
        batch = torch.from_numpy(np.array(crops[start : start + BATCH_SIZE]))  # a copy: the file is read-only
        inputs = normalise(batch.to(device))
        views = _views(inputs) if tta else [inputs]
        with autocast(device, precision):
            parts.append(sum(network(view).float() for view in views) / len(views))
    return torch.cat(parts).cpu().numpy()


def predict_probabilities(
    model: Model, crops: np.ndarray, device: torch.device, precision: str, tta: bool = False
) -> np.ndarray:
    """Return the calibrated probability of each class, float64 (N, K); the rest as in `predict_logits`."""
    return softmax(predict_logits(model.network, crops, device, precision, tta), model.temperature)


def tabulate(index: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Return Filename and Label of `index` with Predicted and Probability_0 to Probability_K-1 of each crop."""
    columns = {f"Probability_{label}": chances for label, chances in enumerate(probabilities.T)}
    return index[["Filename", "Label"]].assign(Predicted=probabilities.argmax(axis=1), **columns)


def _views(inputs: Tensor) -> list[Tensor]:
    """Return the eight flips and quarter turns of inputs (N, C, H, H)."""
    return [side.flip(axes) for side in (inputs, inputs.transpose(2, 3)) for axes in ((), (2,), (3,), (2, 3))]
