"""What a network says of crops."""

import numpy as np
import torch
from scipy import special
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from nuclei.device import autocast
from nuclei.models.checkpoint import Model
from nuclei.models.transforms import normalise

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


def _views(inputs: Tensor) -> list[Tensor]:
    """Return the eight flips and quarter turns of inputs (N, C, H, H)."""
    return [side.flip(axes) for side in (inputs, inputs.transpose(2, 3)) for axes in ((), (2,), (3,), (2, 3))]


TEMPERATURES = 0.05, 20.0  # a fold without any error would ask for 0


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turn logits (N, K) into probabilities, float64 (N, K)."""
    return special.softmax(logits.astype(np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that makes softmax(logits / temperature) most likely, between 0.05 and 20.

    logits: float (N, K), of crops that the network did not train on; labels: int (N,).
    Above 1: the network was too sure; below: not sure enough. What it predicts stays the same.
    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
    """
    logits, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
