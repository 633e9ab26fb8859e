"""A training epoch, data included, by the baseline and by this project; frameworks.py: by what a user might take."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.measure import Implementation, Workload
from benchmarks.workspace import Workspace, params
from nuclei.crops import LabelledCrops, open_crops
from nuclei.device import setup_device
from nuclei.models.backbone import Backbone
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.training.loop import TrainConfig, fit, training_steps

SHAPES = {"cnn": SmallCNN(3, (32, 64, 128, 256), (128, 128), 0.2), "resnet": Backbone(3, "resnet18", "pretrained")}
BATCH_SIZE = 64
EPOCHS = 3  # of this project's: one is over in a moment


def run_baseline(name: str, workspace: Workspace) -> Workload:
    setup_device(workspace.device, workspace.threads)
    network = baseline.NETWORKS[name]().to(workspace.device)
    optimizer = baseline.adam(network)
    index = workspace.index("train")
    baseline.train_epoch(
        network, optimizer, baseline.loader(workspace.png / "train", index[: 2 * baseline.BATCH_SIZE]), workspace.device
    )
    batches = baseline.loader(workspace.png / "train", index, shuffle=True)

    def run() -> int:
        baseline.train_epoch(network, optimizer, batches, workspace.device)
        return len(index)

    return Workload(run)


def run_project(name: str, workspace: Workspace, compiled: bool = False) -> Workload:
    """compiled: by torch.compile, whose own time counts"""
    device = setup_device(workspace.device, workspace.threads)
    network = build(SHAPES[name], seed=0)
    crops = LabelledCrops(open_crops(workspace.crops, "train"), workspace.index("train")["Label"].to_numpy(np.int64))
    few = LabelledCrops(crops.crops[: 2 * BATCH_SIZE], crops.labels[: 2 * BATCH_SIZE])
    list(fit(network, few, None, config(len(few)), device))
    flop = flop_of_training(network, device)
    if compiled:
        network.compile()

    def run() -> int:
        list(fit(network, crops, None, config(len(crops), EPOCHS), device))
        return EPOCHS * max(len(crops) // BATCH_SIZE, 1) * min(BATCH_SIZE, len(crops))

    return Workload(run, flop)


def config(crops: int, epochs: float = 1, batch_size: int = BATCH_SIZE, seed: int = 0) -> TrainConfig:
    steps = training_steps(crops, batch_size, epochs)
    return TrainConfig(lr=baseline.LR, batch_size=batch_size, steps=steps, seed=seed, ema=0.0, train=params().train)


def flop_of_training(network: nn.Module, device: torch.device) -> float:
    """Floating-point operations of one crop, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, 100, 100, device=device)).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() / 2


IMPLEMENTATIONS: dict[str, Implementation] = {
    "baseline cnn": partial(run_baseline, "cnn"),
    "project cnn": partial(run_project, "cnn"),
    "compiled cnn": partial(run_project, "cnn", compiled=True),
    "baseline resnet": partial(run_baseline, "resnet"),
    "project resnet": partial(run_project, "resnet"),
    "compiled resnet": partial(run_project, "resnet", compiled=True),
}
