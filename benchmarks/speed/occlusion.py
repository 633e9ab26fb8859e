"""Occlusion maps of ResNet18: Captum as it comes against this project's, of the same network."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.measure import Implementation, Workload
from benchmarks.speed.training import SHAPES
from benchmarks.workspace import Workspace, params
from nuclei.crops import open_crops
from nuclei.device import setup_device
from nuclei.explanation import attribution
from nuclei.explanation.explainable import mean_colour
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.novelty import Reference
from nuclei.models.transforms import normalise

WINDOW, STRIDE = 20, 10  # pixels: 81 windows a crop


def captum(workspace: Workspace) -> Workload:
    network, crops, device = _prepare(workspace)
    return Workload(lambda: len(_captum(network, crops, device)))


def run_project(precision: str, workspace: Workspace) -> Workload:
    """The notes say how far the maps of two crops are from Captum's, as a share of the largest value there."""
    network, crops, device = _prepare(workspace)
    model = Model(
        "resnet", network, SHAPES["resnet"], Calibration(), Calibration(), Reference(torch.zeros(1), torch.eye(1))
    )
    method = partial(attribution.occlusion, window=WINDOW, stride=STRIDE, precision=precision)

    def maps(crops: np.ndarray) -> np.ndarray:
        targets = np.zeros(len(crops), int)
        return attribution.attribute(model, crops, targets, targets.tolist(), {"": method}, device)[""]

    pair = crops[:2]
    exact = _captum(network, pair, device)
    difference = float(np.abs(maps(pair) - exact).max())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 3, 100, 100, device=device))
    windows = ((100 - WINDOW) // STRIDE + 1) ** 2

    notes = {"largest difference": difference, "share of the largest value": difference / float(np.abs(exact).max())}
    return Workload(lambda: len(maps(crops)), counter.get_total_flops() / 2 * (windows + 1), notes)


def _captum(network: nn.Module, crops: np.ndarray, device: torch.device) -> np.ndarray:
    """Explain log-probabilities of the first class, windows filled with the mean colour: what this project does."""
    images, hidden = (normalise(torch.from_numpy(each)).to(device) for each in (crops, mean_colour(crops).copy()))
    log_probabilities = nn.Sequential(network, nn.LogSoftmax(dim=1))
    return baseline.occlusion(log_probabilities, images, hidden, np.zeros(len(crops), int), WINDOW, STRIDE)


def _prepare(workspace: Workspace) -> tuple[nn.Module, np.ndarray, torch.device]:
    device = setup_device(workspace.device, workspace.threads)
    network = build(SHAPES["resnet"], seed=0).eval().to(device)
    return network, np.array(open_crops(workspace.crops, "train")[: 4 if workspace.small else 8]), device


IMPLEMENTATIONS: dict[str, Implementation] = {
    "baseline": captum,
    "project": partial(run_project, params().train.precision),
    "project float32": partial(run_project, "float32"),
}
