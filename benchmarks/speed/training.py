"""A training epoch, data included: the seed's way and ours. peers.py adds what a user might take instead."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import seed
from benchmarks.measure import Job, Way
from benchmarks.setting import Setting, params
from nuclei.crops import Labelled, open_crops
from nuclei.device import choose_device
from nuclei.models.networks import ResNet18, SmallCNN, build
from nuclei.training.loop import Recipe, fit

SHAPES = {"cnn": SmallCNN(3, (32, 64, 128, 256), (128, 128), 0.2), "resnet": ResNet18(3, "pretrained")}
BATCH_SIZE = 64
EPOCHS = 3  # of ours: one is over in a moment


def seeds(name: str, setting: Setting) -> Job:
    choose_device(setting.device, setting.threads)
    network = seed.NETWORKS[name]().to(setting.device)
    optimizer = seed.adam(network)
    index = setting.index("train")
    seed.train_epoch(
        network, optimizer, seed.loader(setting.png / "train", index[: 2 * seed.BATCH_SIZE]), setting.device
    )
    batches = seed.loader(setting.png / "train", index, shuffle=True)

    def run() -> int:
        seed.train_epoch(network, optimizer, batches, setting.device)
        return len(index)

    return Job(run)


def ours(name: str, setting: Setting, compiled: bool = False) -> Job:
    """compiled: by torch.compile, whose own time counts"""
    device = choose_device(setting.device, setting.threads)
    network = build(SHAPES[name], seed=0)
    crops = Labelled(open_crops(setting.crops, "train"), setting.index("train")["Label"].to_numpy(np.int64))
    some = Labelled(crops.crops[: 2 * BATCH_SIZE], crops.labels[: 2 * BATCH_SIZE])
    list(fit(network, some, None, recipe(), device))
    flop = flop_of_training(network, device)
    if compiled:
        network.compile()

    def run() -> int:
        list(fit(network, crops, None, recipe(EPOCHS), device))
        return EPOCHS * max(len(crops) // BATCH_SIZE, 1) * min(BATCH_SIZE, len(crops))

    return Job(run, flop)


def recipe(epochs: int = 1) -> Recipe:
    return Recipe(lr=0.001, batch_size=BATCH_SIZE, epochs=epochs, seed=0, ema=0.0, train=params().train)


def flop_of_training(network: nn.Module, device: torch.device) -> float:
    """Floating-point operations of one crop, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, 100, 100, device=device)).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() / 2


WAYS: dict[str, Way] = {
    "seed cnn": partial(seeds, "cnn"),
    "ours cnn": partial(ours, "cnn"),
    "compiled cnn": partial(ours, "cnn", compiled=True),
    "seed resnet": partial(seeds, "resnet"),
    "ours resnet": partial(ours, "resnet"),
    "compiled resnet": partial(ours, "resnet", compiled=True),
}
