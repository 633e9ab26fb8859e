"""The two networks, and their files: safetensors that say all that is needed to predict."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from nuclei.classes import CLASSES
from nuclei.crops import MEAN, STD
from nuclei.errors import InputError
from nuclei.tensors import open_tensors, write_tensors

LONGEST_DESCRIPTION = 10_000  # characters
TEMPERATURES = 0.0499, 20.01  # a fit ends within 0.05 and 20; beyond, every answer would be certain, or 0.25


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


@dataclass(frozen=True)
class Model:
    """A trained network, its architecture, and the temperature by which its logits are divided (Guo et al. 2017)."""

    network: nn.Module
    architecture: Architecture
    temperature: float = 1.0


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


def save_model(path: Path, model: Model) -> None:
    """Write the weights, with all else that predicting needs in the metadata. Byte-identical on a rerun."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    write_tensors(path, tensors, {"nuclei": json.dumps(_describe(model))})


def _describe(model: Model) -> dict[str, Any]:
    return {
        "kind": type(model.architecture).__name__,
        "architecture": asdict(model.architecture),
        "classes": CLASSES,
        "mean": MEAN[model.architecture.channels],
        "std": STD[model.architecture.channels],
        "temperature": model.temperature,
    }


def load_model(path: Path) -> Model:
    """Build the model that `path` describes, its network in evaluation mode.

    Raises InputError. Nothing larger than the file is built to find out that it does not fit.
    """
    try:
        with open_tensors(path) as file:
            text = (file.metadata() or {})["nuclei"]
            if len(text) > LONGEST_DESCRIPTION:
                raise ValueError("endless metadata")
            description = json.loads(text)
            kind = {"SmallCNN": SmallCNN, "ResNet18": ResNet18}[description["kind"]]
            fields = description["architecture"].items()
            architecture = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields})
            with torch.device("meta"):  # shapes alone
                expected = {name: value.shape for name, value in build(architecture, seed=0).state_dict().items()}
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != expected:
                raise ValueError("weights of other shapes than its architecture has")
            tensors = {name: file.get_tensor(name) for name in expected}
        model = Model(build(architecture, seed=0).eval(), architecture, description["temperature"])
        if description != json.loads(json.dumps(_describe(model))):
            raise ValueError("other classes or another normalisation")
        if not TEMPERATURES[0] <= model.temperature <= TEMPERATURES[1]:
            raise ValueError("the temperature is not from 0.05 to 20")
        for name, value in model.network.state_dict().items():
            if tensors[name].dtype != value.dtype:
                raise ValueError(f"{name} is {tensors[name].dtype}, not {value.dtype}")
            if not tensors[name].isfinite().all():
                raise ValueError(f"{name} holds NaN or infinity")
        model.network.load_state_dict(tensors)
        with torch.inference_mode():
            ramp = torch.linspace(-2, 2, architecture.channels * 10_000).view(1, architecture.channels, 100, 100)
            if not torch.softmax(model.network(ramp) / model.temperature, dim=1).isfinite().all():
                raise ValueError("it answers with NaN or infinity")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}): copy or train it again") from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a model of this project ({reason}): copy or train it again") from None
    return model
