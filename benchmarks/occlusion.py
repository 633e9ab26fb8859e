"""Occlusion maps of ResNet18: Captum as it comes against ours, of the same network."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import seed
from benchmarks.measure import Job, Way
from benchmarks.setting import Setting, params
from benchmarks.training import SHAPES
from nuclei import attribution
from nuclei.crops import normalise, open_crops
from nuclei.device import choose_device
from nuclei.models import Model, build

WINDOW, STRIDE = 20, 10  # pixels: 81 windows a crop


def captum(setting: Setting) -> Job:
    network, crops, device = _prepare(setting)
    targets, inputs = np.zeros(len(crops), int), normalise(torch.from_numpy(crops)).to(device)

    def run() -> int:
        return len(seed.occlusion(network, inputs, targets, WINDOW, STRIDE))

    return Job(run)


def ours(precision: str, setting: Setting) -> Job:
    """The notes say how far the maps of two crops are from Captum's, as a share of the largest value there."""
    network, crops, device = _prepare(setting)
    method = partial(attribution.occlusion, window=WINDOW, stride=STRIDE, precision=precision)

    def maps(crops: np.ndarray) -> np.ndarray:
        targets = np.zeros(len(crops), int)
        model = Model(network, SHAPES["resnet"])
        return attribution.attribute(model, crops, targets, targets.tolist(), {"": method}, device)[""]

    some = crops[:2]
    log_probabilities = nn.Sequential(network, nn.LogSoftmax(dim=1))  # what our maps are of
    exact = seed.occlusion(
        log_probabilities, normalise(torch.from_numpy(some)).to(device), np.zeros(2, int), WINDOW, STRIDE
    )
    difference = float(np.abs(maps(some) - exact).max())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 3, 100, 100, device=device))
    windows = ((100 - WINDOW) // STRIDE + 1) ** 2

    notes = {"largest difference": difference, "share of the largest value": difference / float(np.abs(exact).max())}
    return Job(lambda: len(maps(crops)), counter.get_total_flops() / 2 * (windows + 1), notes)


def _prepare(setting: Setting) -> tuple[nn.Module, np.ndarray, torch.device]:
    device = choose_device(setting.device, setting.threads)
    network = build(SHAPES["resnet"], seed=0).eval().to(device)
    return network, np.array(open_crops(setting.crops, "train")[: 4 if setting.small else 8]), device


WAYS: dict[str, Way] = {
    "seed": captum,
    "ours": partial(ours, params().train.precision),
    "ours float32": partial(ours, "float32"),
}
