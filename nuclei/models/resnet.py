"""ResNet18, which may start from pretrained weights."""

from dataclasses import dataclass
from typing import Any, Self

import torchvision
from torch import Tensor, nn

from nuclei.errors import InputError
from nuclei.models.transforms import MEAN
from nuclei.params import Params
from nuclei.task import CLASSES


@dataclass(frozen=True)
class ResNet18:
    """torchvision's ResNet18 (He et al. 2016) with a last layer for these classes.

    Attributes:
        channels: 1 or 3.
        stem: "pretrained" (7x7 at stride 2, then max pooling), "no_pool" (without the pooling), or "small" (3x3 at
            stride 1, no pooling: cannot use pretrained weights in its first layer).
        classes: Number of classes.
    """

    channels: int
    stem: str
    classes: int = len(CLASSES)

    def __post_init__(self) -> None:
        if self.channels not in MEAN or self.stem not in ("pretrained", "no_pool", "small"):
            raise ValueError("a ResNet18 has 1 or 3 channels and a stem that is pretrained, no_pool or small")

    @classmethod
    def from_params(cls, params: Params, tuned: dict[str, Any]) -> Self:
        """See `Architecture`."""
        return cls(params.data.channels, params.resnet.stem)

    @staticmethod
    def search_space(params: Params) -> dict[str, list[Any]]:
        """See `Architecture`."""
        return {}

    def build(self) -> nn.Module:
        """See `Architecture`."""
        network = torchvision.models.resnet18(num_classes=self.classes)
        if self.stem == "small":
            network.conv1 = nn.Conv2d(self.channels, 64, 3, padding=1, bias=False)
        elif self.channels != 3:
            network.conv1 = nn.Conv2d(self.channels, 64, 7, stride=2, padding=3, bias=False)
        if self.stem != "pretrained":
            network.maxpool = nn.Identity()
        return network

    def load_pretrained(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """See `Architecture`.

        One input channel gets the sum of the three channels' weights: nearly the same answer for the same grey in all
        three. A "small" stem keeps its random first convolution.
        """
        expected = network.state_dict()
        matched = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        if expected["conv1.weight"].shape[-1] != 7:
            matched["conv1.weight"] = expected["conv1.weight"]
        elif expected["conv1.weight"].shape[1] == 1 and "conv1.weight" in matched:
            matched["conv1.weight"] = matched["conv1.weight"].sum(dim=1, keepdim=True)
        for name, value in expected.items():
            if name.startswith("fc.") or name.endswith("num_batches_tracked"):  # torchvision's file holds no counts
                continue
            if name not in matched:
                raise InputError(f"pretrained weights: {name} is missing")
            if matched[name].shape != value.shape:
                raise InputError(
                    f"pretrained weights: {name} is {tuple(matched[name].shape)}, not {tuple(value.shape)}"
                )
        network.load_state_dict(matched, strict=False)

    def cam_layer(self, network: nn.Module) -> nn.Module:
        """See `Architecture`: at most 8 pixels per cell; the later stages cannot resolve a nucleus."""
        return network.layer2 if self.stem == "pretrained" else network.layer3
