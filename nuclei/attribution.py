"""What a network looks at, by Captum."""

from collections.abc import Iterator

import numpy as np
import torch
from captum.attr import Occlusion
from torch import nn

from nuclei.crops import normalise
from nuclei.device import autocast

WINDOWS_A_PASS = 128  # masked crops that go through the network together


def occlusion(
    network: nn.Module,
    crops: np.ndarray,
    targets: np.ndarray,
    window: int,
    stride: int,
    device: torch.device,
    precision: str,
) -> np.ndarray:
    """Return how much each pixel holds up the logit of `targets`: float32 (N, H, W).

    A square of `window` pixels that moves by `stride` is filled with its crop's mean colour; a pixel's value is the
    mean fall of the logit over the squares that cover it. Above zero: speaks for the class; below: against it.
    crops: uint8 (N, H, W, C); targets: int (N,).
    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".
    """
    network.eval().to(device)

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return network(inputs).float()

    maps = []
    with torch.inference_mode():
        for inputs, target in _one_by_one(crops, targets, device):
            attribution = Occlusion(logits).attribute(
                inputs,
                sliding_window_shapes=(inputs.shape[1], window, window),
                strides=(1, stride, stride),
                baselines=inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs),
                target=target,
                perturbations_per_eval=WINDOWS_A_PASS,
            )
            maps.append(attribution.mean(dim=1).cpu().numpy())  # Captum repeats the value in every channel
    return np.concatenate(maps).astype(np.float32)


def _one_by_one(crops: np.ndarray, targets: np.ndarray, device: torch.device) -> Iterator[tuple[torch.Tensor, int]]:
    for crop, target in zip(crops, targets, strict=True):
        yield normalise(torch.from_numpy(np.array(crop[None])).to(device)), int(target)


def choose_examples(labels: np.ndarray, predicted: np.ndarray, crops_a_class: int) -> np.ndarray:
    """Choose crops to explain: rows, int (M,), ordered by label, right ones before wrong ones.

    labels: int (N,); predicted: int (models, N). Of each class, half are crops that every model gets right and half
    ones that any gets wrong, the first in file order; where a half runs short, the other fills up.
    """
    right = (predicted == labels).all(axis=0)
    chosen = []
    for label in np.unique(labels):
        rights = np.flatnonzero((labels == label) & right)
        wrongs = np.flatnonzero((labels == label) & ~right)
        n_wrong = min(len(wrongs), max(crops_a_class // 2, crops_a_class - len(rights)))
        chosen += [rights[: crops_a_class - n_wrong], wrongs[:n_wrong]]
    return np.concatenate(chosen)
