"""What a network says of crops."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nuclei.cluster import map_crops
from nuclei.device import Compute, autocast
from nuclei.models.checkpoint import Model
from nuclei.models.networks import Architecture, watch
from nuclei.models.temperature import softmax
from nuclei.models.transforms import normalise

VIEWS = 8  # the flips and rotations
BATCH_SIZE = 64  # the layers' outputs stay small enough for the cache, and to be allocated without page faults


@torch.inference_mode()
def predict_logits(
    network: nn.Module, crops: np.ndarray, device: torch.device, precision: str, tta: bool = False
) -> np.ndarray:
    """Return the logits of crops.

    Args:
        network: Left on `device` and in evaluation mode.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        device: What computes.
        precision: As in `autocast`.
        tta: Average the logits over the eight flips and rotations of each crop.

    Returns:
        float32 (N, K).
    """
    network.eval().to(device)
    logits = []
    for start in range(0, len(crops), BATCH_SIZE):
        batch = torch.from_numpy(np.array(crops[start : start + BATCH_SIZE]))  # a copy: the file is read-only
        inputs = normalise(batch.to(device))
        views = _views(inputs) if tta else [inputs]
        with autocast(device, precision):
            logits.append(sum(network(view).float() for view in views) / len(views))
    return torch.cat(logits).cpu().numpy()


class Outputs(NamedTuple):
    """What a network says of N crops, and what it says that from.

    Attributes:
        logits: float32 (N, K).
        embeddings: float32 (N, D), what goes into the last layer, of each crop as it is.
        features: float32 (N, E), what novelty is told from, of each crop as it is.
    """

    logits: np.ndarray
    embeddings: np.ndarray
    features: np.ndarray


def predict_outputs(
    network: nn.Module,
    architecture: Architecture,
    crops: np.ndarray,
    device: torch.device,
    precision: str,
    tta: bool = False,
) -> Outputs:
    """Return what `predict_logits` does, and what the network saw on the way there: nothing is computed twice.

    Args:
        network: As in `predict_logits`, as the other arguments.
        architecture: What the network was built from.
        crops: uint8 (N, H, W, C), N is 1 or more.
        device: What computes.
        precision: As in `autocast`.
        tta: Average the logits; the first view of a crop is the crop as it is, of which the rest is told.
    """
    with watch(network, architecture) as (embeddings, features):
        logits = predict_logits(network, crops, device, precision, tta)
    step = VIEWS if tta else 1
    return Outputs(logits, *(torch.cat(values[::step]).numpy() for values in (embeddings, features)))


def predict_probabilities(
    model: Model, crops: np.ndarray, device: torch.device, precision: str, tta: bool = False
) -> np.ndarray:
    """Return the calibrated probability of each class.

    Args:
        model: Its network is left on `device`.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        device: What computes.
        precision: As in `autocast`.
        tta: As in `predict_logits`.

    Returns:
        float64 (N, K), rows sum to 1.
    """
    return softmax(predict_logits(model.network, crops, device, precision, tta), model.calibration(tta).temperature)


def predict_mean(models: Sequence[Model], crops: np.ndarray, compute: Compute, precision: str, tta: bool) -> np.ndarray:
    """Return the mean of the models' calibrated probabilities, computed on the cluster if there is one.

    Args:
        models: One or more.
        crops: uint8 (N, H, W, C); may be memory-mapped.
        compute: What each process computes with.
        precision: As in `autocast`.
        tta: Average over the eight flips and rotations of each crop.

    Returns:
        float64 (N, K), rows sum to 1.
    """
    predictors = [partial(predict_probabilities, model, precision=precision, tta=tta) for model in models]
    return np.mean([map_crops(predict, [crops], compute) for predict in predictors], axis=0)


def neighbour_weights(models: Sequence[Model], tta: bool) -> list[float] | None:
    """Return how much neighbours count, see `nuclei.models.neighbours`: the mean of the models' weights.

    Args:
        models: One or more.
        tta: Whether they average over the eight flips and rotations.

    Returns:
        1 + K weights; None where one of them has no weights, since no crop that they were fitted on has a neighbour.
    """
    fitted = [model.calibration(tta).neighbourhood for model in models]
    weights = [neighbourhood.weights for neighbourhood in fitted if neighbourhood]
    return np.mean(weights, axis=0).tolist() if len(weights) == len(models) else None


def _views(inputs: Tensor) -> list[Tensor]:
    """Return the eight flips and rotations of inputs (N, C, H, H), the first of which changes nothing."""
    return [view.flip(axes) for view in (inputs, inputs.transpose(2, 3)) for axes in ((), (2,), (3,), (2, 3))]
