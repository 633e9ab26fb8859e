"""Networks in a form that is fit to be looked into, and what stands for "nothing to see"."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nuclei.device import autocast
from nuclei.models.adapted import Adapted
from nuclei.models.checkpoint import Model
from nuclei.models.transforms import normalise

BLUR = 0.1  # standard deviation of the blurred baseline, as a share of the crop's height


class Explainable(nn.Module):
    """A network in a form that gives log-probabilities, float32 (N, K), and is fit to be looked into.

    Attributes:
        network: Gives logits; no activation overwrites its input, no weight asks for a gradient.
        temperature: What the logits are divided by: that of single views, for maps are of the crop as it is.
        cam_layer: The layer of `network` whose feature maps LayerCAM weighs.
    """

    def __init__(self, network: nn.Module, temperature: float, cam_layer: nn.Module):
        super().__init__()
        self.network, self.temperature, self.cam_layer = network, temperature, cam_layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the log-probabilities, float32 (N, K), of normalised crops, float32 (N, C, H, W)."""
        return torch.log_softmax(self.network(inputs).float() / self.temperature, dim=1)


def explainable(model: Model) -> Explainable:
    """Copy the network of `model`, in evaluation mode, into a form that is fit to be looked into.

    Each batch norm is folded into the convolution before it: a third of the time. A network of timm keeps its own: they
    may hold an activation, and need not follow the layer that is listed before them.
    """
    network = copy.deepcopy(model.network).eval().requires_grad_(False)
    of_timm = isinstance(network, Adapted) and network.normalisation is not None
    for module in list(network.modules()):
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 (any kind of module); hooks would see what comes after it
        for (name, layer), (following, norm) in pairwise(() if of_timm else module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, following, nn.Identity())
    network = network.to(memory_format=torch.channels_last)
    return Explainable(network, model.single.temperature, model.architecture.cam_layer(network))


@torch.inference_mode()
def predict_single_view(
    network: Explainable, crops: np.ndarray, device: torch.device, precision: str, batch_size: int = 64
) -> np.ndarray:
    """Return the calibrated probability of each class, of crops as they are: not flipped, not rotated.

    Args:
        network: On `device`; three quarters of the time that the network with its batch norms takes.
        crops: uint8 (N, H, W, C).
        device: Where to compute.
        precision: See `autocast`.
        batch_size: Crops per pass.

    Returns:
        float32 (N, K), rows sum to 1.
    """
    probabilities = []
    for start in range(0, len(crops), batch_size):
        inputs = normalise(torch.from_numpy(np.ascontiguousarray(crops[start : start + batch_size])).to(device))
        with autocast(device, precision):
            probabilities.append(network(inputs).exp().float())
    return torch.cat(probabilities).cpu().numpy()


def mean_colour(crops: np.ndarray) -> np.ndarray:
    """Return `crops`, uint8 (N, H, W, C), each evenly in its mean colour: uint8 (N, H, W, C), read-only."""
    means = crops.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(means, crops.shape)


def blurred(crops: np.ndarray) -> np.ndarray:
    """Return crops too blurred to show a nucleus.

    Args:
        crops: uint8 (N, H, W, C).

    Returns:
        uint8 (N, H, W, C).

    Source: Fong & Vedaldi 2017, "Interpretable explanations of black boxes by meaningful perturbation".
    """
    sigma = BLUR * crops.shape[1]
    return gaussian_filter(crops.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)


# What stands for "nothing to see". None is neutral to every network, so there are two, and what a network says of each
# is reported (Sturmfels et al. 2020, "Visualizing the impact of feature attribution baselines").
BASELINES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"mean_colour": mean_colour, "blurred": blurred}
