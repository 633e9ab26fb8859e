"""What `generalisation` changes, one at a time: crops, their augmentation, a network, its start, the loss."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot
from torchvision.transforms import v2

from benchmarks.workspace import params
from nuclei.crops import LabelledCrops
from nuclei.evaluation.corruptions import compress, restain, stain_vectors
from nuclei.models.transforms import MEAN, STD, normalise
from nuclei.training import loop

FILTERS = tuple(params().cnn.filters)
STAIN_CROPS = 200  # of a group, at most, that its stains are measured on


@dataclass(frozen=True)
class Change:
    """What differs from params.yaml.

    Attributes:
        train: Parameters.
        config: Fields of `TrainConfig`.
        shape: Fields of the network's architecture.
        length: How many times the epochs.
        prepare: What is done to all crops, uint8 (N, H, W, 3), first.
        extend: Turns the N crops of a training, and their groups (N,), into what is trained on.
        adapt: Turns a `SmallCNN` into the network that is trained.
        simclr: Whether it is trained at first without labels, on the crops to train on, for half as many epochs.
        pretrained: Whether a network that may start from pretrained weights does.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    length: float = 1
    prepare: Callable[[np.ndarray], np.ndarray] = np.asarray
    extend: Callable[[LabelledCrops, np.ndarray], LabelledCrops] = lambda train_set, groups: train_set
    adapt: Callable[[nn.Sequential], nn.Module] = lambda network: network
    simclr: bool = False
    pretrained: bool = True


def only_middle(crops: np.ndarray, side: int) -> np.ndarray:
    """Put the mean colour of the normalisation all around the middle `side` x `side` pixels."""
    start = (crops.shape[1] - side) // 2
    middle = slice(start, start + side)
    hidden = np.empty_like(crops)
    hidden[:] = np.round(255 * np.array(MEAN[3]))
    hidden[:, middle, middle] = crops[:, middle, middle]
    return hidden


def reinhard(crops: np.ndarray) -> np.ndarray:
    """Give the colours of every crop the same mean and standard deviation, those of the average crop.

    Source: Reinhard et al. 2001, "Color transfer between images", here in CIELAB.
    """
    starts = range(0, len(crops), 256)
    blocks = [rgb2lab(crops[start : start + 256]) for start in starts]
    means, spreads = ([take(block, axis=(1, 2), keepdims=True) for block in blocks] for take in (np.mean, np.std))
    to_mean, to_spread = (np.concatenate(values).mean(axis=0) for values in (means, spreads))
    result = np.empty_like(crops)
    for start, block, mean, spread in zip(starts, blocks, means, spreads, strict=True):
        lab = (block - mean) / spread.clip(min=1e-3) * to_spread + to_mean
        result[start : start + 256] = np.round(255 * lab2rgb(lab).clip(0, 1))
    return result


def add_restained(train_set: LabelledCrops, groups: np.ndarray) -> LabelledCrops:
    """Add every crop once more, as if stained as those of another group of the training crops are.

    Each group gets the stains of a random other one; groups without tissue of both stains are added as they are.
    """
    rng, crops = np.random.default_rng(0), train_set.crops.copy()
    rows = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    stains = {group: stain_vectors(train_set.crops[row[:STAIN_CROPS], ::4, ::4]) for group, row in rows.items()}
    known = {group: vectors for group, vectors in stains.items() if vectors is not None}
    for group, source in known.items():
        others = [vectors for other, vectors in known.items() if other != group]
        if others:
            target = others[rng.integers(len(others))]
            crops[rows[group]] = restain(train_set.crops[rows[group]], source, target)
    both = np.concatenate([train_set.crops, crops]), np.concatenate([train_set.labels, train_set.labels])
    return LabelledCrops(*both, train_set.task)


class Augmented(nn.Module):
    """A network that in training sees each crop changed at random, uint8 (C, H, W)."""

    def __init__(self, change: nn.Module, network: nn.Module):
        super().__init__()
        self.change, self.network = change, network

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            mean, std = (torch.tensor(values[3], device=inputs.device).view(3, 1, 1) for values in (MEAN, STD))
            crops = (255 * (inputs * std + mean)).round().clamp(0, 255).byte().cpu()
            changed = torch.stack([self.change(crop) for crop in crops])
            inputs = normalise(changed.permute(0, 2, 3, 1).to(inputs.device))
        return self.network(inputs)


class Mixed(nn.Module):
    """A network that in training sees mixtures of N crops; `weights`, (N, N): how much of each crop is in each."""

    def __init__(self, mixing: Callable[..., nn.Module], network: nn.Module):
        super().__init__()
        self.mixing, self.network, self.weights = mixing, network, torch.empty(0)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            rows = torch.arange(len(inputs), device=inputs.device)
            inputs, self.weights = self.mixing(num_classes=len(inputs))(inputs, rows)
        return self.network(inputs.contiguous(memory_format=torch.channels_last))


@contextmanager
def mixed_labels(network: nn.Module) -> Iterator[None]:
    """While this lasts, a training of a `Mixed` network is asked for the labels mixed as its crops are."""

    def mean_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, label_smoothing: float) -> Tensor:
        labels = network.weights.to(logits) @ one_hot(labels, logits.shape[1]).to(logits)
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)

    if not isinstance(network, Mixed):
        yield
        return
    with patch.object(loop, "_mean_loss", mean_loss):
        yield


class TwoScales(nn.Module):
    """A network that sees a crop and, as three more channels, its middle enlarged twice."""

    def __init__(self, network: nn.Sequential):
        super().__init__()
        first = network[0]
        wider = nn.Conv2d(6, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
        self.network = nn.Sequential(wider, *network[1:]).to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        quarter = inputs.shape[-1] // 4
        middle = inputs[..., quarter:-quarter, quarter:-quarter]
        both = torch.cat([inputs, interpolate(middle, inputs.shape[-2:], mode="bilinear")], dim=1)
        return self.network(both.contiguous(memory_format=torch.channels_last))


def pooled(network: nn.Sequential) -> nn.Sequential:
    """Average the last feature maps instead of keeping their places apart."""
    at = next(i for i, layer in enumerate(network) if isinstance(layer, nn.Flatten))
    last = next(layer for layer in reversed(network[:at]) if isinstance(layer, nn.BatchNorm2d))
    linear = nn.Linear(last.num_features, network[at + 1].out_features)
    return nn.Sequential(*network[:at], nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, *network[at + 2 :])


def deeper(network: nn.Sequential) -> nn.Sequential:
    """Put one convolution more, with batch norm and ReLU, before each of the last two poolings."""
    at = [i for i, layer in enumerate(network) if isinstance(layer, nn.MaxPool2d)][2:]
    layers: list[nn.Module] = []
    for i, layer in enumerate(network):
        if i in at:
            n = network[i - 2].num_features
            layers += [nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
        layers.append(layer)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class SparingDecay(nn.Sequential):
    """A network whose biases and batch norms do not decay."""

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """Yield groups of parameters, as optimizers take them."""
        every = list(super().parameters(recurse))
        yield {"params": [weights for weights in every if weights.ndim > 1]}
        yield {"params": [weights for weights in every if weights.ndim <= 1], "weight_decay": 0.0}


def recompress(crop: Tensor) -> Tensor:
    """Return a crop, uint8 (C, H, W), as a JPEG of random quality has it."""
    quality = int(torch.randint(30, 96, ()))
    return torch.from_numpy(compress(crop.permute(1, 2, 0).numpy()[None], quality)[0]).permute(2, 0, 1)


CAMERA = v2.Compose(
    [
        v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], 0.3),
        v2.RandomApply([v2.Lambda(recompress)], 0.3),
        v2.ColorJitter(brightness=0.2),
    ]
)
SCALE = v2.RandomAffine(
    0, scale=(0.8, 1.25), interpolation=v2.InterpolationMode.BILINEAR, fill=[round(255 * mean) for mean in MEAN[3]]
)

BASE = "as in params.yaml"
OF_CNN = {
    BASE: Change(),
    "stain jitter 0.05": Change({"stain": 0.05}),
    "stain jitter 0.4": Change({"stain": 0.4}),
    "balanced loss": Change({"balance": "loss"}),
    "balanced sampling": Change({"balance": "sampling"}),
    "the middle 60 x 60 pixels only": Change(prepare=partial(only_middle, side=60)),
    "Reinhard colour normalisation": Change(prepare=reinhard),
    "SimCLR pretraining": Change(simclr=True),
    "twice the epochs": Change(length=2),
    "EMA 0.99": Change(config={"ema": 0.99}),
    "no label smoothing": Change({"label_smoothing": 0.0}),
    "no weight decay of biases and batch norm": Change(adapt=SparingDecay),
    "dropout 0.5": Change(shape={"dropout": 0.5}),
    "MixUp": Change(adapt=partial(Mixed, partial(v2.MixUp, alpha=0.2))),
    "CutMix": Change(adapt=partial(Mixed, partial(v2.CutMix, alpha=1.0))),
    "blur, JPEG, brightness": Change(adapt=partial(Augmented, CAMERA)),
    "scale 0.8 to 1.25": Change(adapt=partial(Augmented, SCALE)),
    "stains of other groups": Change(extend=add_restained, length=0.5),  # of twice the crops
    "two scales": Change(adapt=TwoScales),
    "average pooling": Change(adapt=pooled),
    "two convolutions more": Change(adapt=deeper),
    "twice the filters": Change(shape={"filters": tuple(2 * filters for filters in FILTERS)}),
}
OF_PRETRAINED = {
    BASE: Change(),
    "random weights": Change(pretrained=False),
    "half of the layers frozen": Change(shape={"frozen": 0.5}),
    "all layers frozen but the last": Change(shape={"frozen": 1.0}),
    "100 pixels": Change(shape={"size": None}),
    "160 pixels": Change(shape={"size": 160}),
    "twice the epochs": Change(length=2),
}
