"""Networks of timm, and networks that crops are made to fit.

Importing timm takes longer than torch itself, so only a network that needs it does so.
"""

from difflib import get_close_matches
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nuclei.errors import InputError
from nuclei.models.transforms import MEAN, STD
from nuclei.params import RESNET18
from nuclei.tensors import LARGEST_FILE

CAM_REDUCTION = 8  # pixels of the crop per cell of a feature map, at most: coarser ones cannot resolve a nucleus


class Adapted(nn.Module):
    """A network behind what it expects: its own normalisation and size; its first layers may be frozen."""

    def __init__(
        self,
        network: nn.Module,
        classifier: nn.Linear,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None,
        size: int | None,
        frozen: float,
    ):
        super().__init__()
        self.network, self.normalisation, self.size = network, normalisation, size
        layers = [
            module
            for module in network.modules()
            if module is not classifier and next(module.parameters(recurse=False), None) is not None
        ]
        self.frozen = tuple(layers[: round(frozen * len(layers))])  # a tuple: they are no further modules of this one
        for module in self.frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, float32 (N, K), from float32 (N, C, H, W), normalised by MEAN and STD."""
        if self.normalisation:
            mean, std, ours, theirs = (
                torch.tensor(values, device=inputs.device).view(-1, 1, 1)
                for values in (MEAN[inputs.shape[1]], STD[inputs.shape[1]], *self.normalisation)
            )
            inputs = inputs * (std / theirs) + (mean - ours) / theirs
        if self.size and inputs.shape[-1] != self.size:
            inputs = interpolate(inputs, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network(inputs)

    def train(self, mode: bool = True) -> Self:
        """Also keep the statistics of frozen batch norms as they are."""
        super().train(mode)
        for module in self.frozen:
            module.training = False  # its own: what is in it may be trained
        return self

    def extra_repr(self) -> str:
        """Say what no module and no weight says."""
        return f"normalisation={self.normalisation}, size={self.size}, frozen={len(self.frozen)}"


def import_timm(backbone: str) -> Any:
    """Import timm, and see that it has a network.

    Args:
        backbone: Its name.

    Raises:
        InputError: timm is not installed, has no such network, or it is too large for a checkpoint.
    """
    try:
        import timm
    except ImportError:
        raise InputError(
            f"resnet.backbone: {backbone} is a network of timm, which is not installed: pip install '.[pretrained]'"
        ) from None
    if not timm.is_model(backbone):
        near = get_close_matches(backbone, [RESNET18, *timm.list_models()], n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise InputError(f"resnet.backbone: timm has no network {backbone}{hint}; timm.list_models() lists all")
    with torch.device("meta"):  # shapes alone
        size = 4 * sum(value.numel() for value in timm.create_model(backbone).state_dict().values())
    if size > LARGEST_FILE:
        raise InputError(
            f"resnet.backbone: {backbone} has {size // 2**20} MiB of weights, a checkpoint at most "
            f"{LARGEST_FILE // 2**20} MiB: choose a smaller one"
        )
    return timm


def feature_maps(network: nn.Module) -> nn.Module | None:
    """Return the layer of a network of timm whose feature maps are the last of at most 8 pixels of the crop per cell.

    None of a network without feature maps, such as a vision transformer, or with channels last, such as Swin.
    """
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        return None
    listed: Any = network.feature_info
    features = [item["module"] for item in listed if item["reduction"] <= CAM_REDUCTION]
    return network.get_submodule(features[-1]) if features else None


def has_feature_maps(backbone: str) -> bool:
    """Return whether LayerCAM can explain a network.

    Args:
        backbone: resnet18, or its name in timm.
    """
    if backbone == RESNET18:
        return True
    with torch.device("meta"):  # its layers, without their weights
        return feature_maps(import_timm(backbone).create_model(backbone)) is not None
