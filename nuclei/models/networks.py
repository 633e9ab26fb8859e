"""The two networks, and their files: safetensors that say all that is needed to predict."""

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from nuclei.errors import InputError
from nuclei.models.transforms import MEAN
from nuclei.task import CLASSES


@dataclass(frozen=True)
class SmallCNN:
    """Four convolutions with batch norm and max pooling, two fully connected layers, a linear classifier.

    channels: 1 or 3; filters: of the four convolutions; widths: of the two fully connected layers;
    dropout: share of the last layer's values that are dropped in training
    """

    channels: int
    filters: tuple[int, int, int, int]
    widths: tuple[int, int]
    dropout: float

    def __post_init__(self) -> None:
        sizes = (self.channels in MEAN, len(self.filters) == 4, len(self.widths) == 2)
        if not (all(sizes) and 0 <= self.dropout < 1):
            raise ValueError("a SmallCNN has 1 or 3 channels, 4 filters, 2 widths and a dropout below 1")


@dataclass(frozen=True)
class ResNet18:
    """torchvision's ResNet18 (He et al. 2016) with four classes.

    channels: 1 or 3;
    stem: "pretrained" (7x7 at stride 2, then max pooling), "no_pool" (without the pooling),
    "small" (3x3 at stride 1, no pooling: cannot use pretrained weights in its first layer)
    """

    channels: int
    stem: str

    def __post_init__(self) -> None:
        if self.channels not in MEAN or self.stem not in ("pretrained", "no_pool", "small"):
            raise ValueError("a ResNet18 has 1 or 3 channels and a stem that is pretrained, no_pool or small")


Architecture = SmallCNN | ResNet18


def build(architecture: Architecture, seed: int) -> nn.Module:
    """Build the network: float32 (N, C, 100, 100), normalised, to logits (N, 4). The same `seed`, the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _small_cnn(architecture) if isinstance(architecture, SmallCNN) else _resnet18(architecture)
    return network.to(memory_format=torch.channels_last)


def _small_cnn(shape: SmallCNN) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = shape.channels
    for place, outputs in enumerate(shape.filters):
        # A stride in the first layer costs no accuracy here and makes all that follows four times cheaper.
        kernel, stride = (5, 2) if place == 0 else (3, 1)
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = outputs
    first, second = shape.widths
    return nn.Sequential(
        *layers,
        nn.Flatten(),  # of 3 x 3 places: the middle, where the nucleus to classify is, stays apart from the rest
        nn.Linear(9 * inputs, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Dropout(shape.dropout),
        nn.Linear(second, len(CLASSES)),
    )


def _resnet18(shape: ResNet18) -> nn.Module:
    network = torchvision.models.resnet18(num_classes=len(CLASSES))
    if shape.stem == "small":
        network.conv1 = nn.Conv2d(shape.channels, 64, 3, padding=1, bias=False)
    elif shape.channels != 3:
        network.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
    if shape.stem != "pretrained":
        network.maxpool = nn.Identity()
    return network


def load_pretrained(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill a ResNet18 with pretrained `weights`, apart from its last layer, which keeps its random start.

    One input channel gets the sum of the three channels' weights: the same answer for the same grey in all three.
    A "small" stem keeps its random first convolution. Raises InputError where other weights are missing or misshapen.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    if own["conv1.weight"].shape[-1] != 7:
        fitting["conv1.weight"] = own["conv1.weight"]
    elif own["conv1.weight"].shape[1] == 1 and "conv1.weight" in fitting:
        fitting["conv1.weight"] = fitting["conv1.weight"].sum(dim=1, keepdim=True)
    for name, value in own.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):  # torchvision's file holds no counts
            continue
        if name not in fitting:
            raise InputError(f"pretrained weights: {name} is missing")
        if fitting[name].shape != value.shape:
            raise InputError(f"pretrained weights: {name} is {tuple(fitting[name].shape)}, not {tuple(value.shape)}")
    network.load_state_dict(fitting, strict=False)
