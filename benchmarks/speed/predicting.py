"""Validation, and prediction of the test set, data included."""

from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.measure import Implementation, Workload
from benchmarks.speed.training import SHAPES
from benchmarks.workspace import Workspace, params
from nuclei.crops import open_crops
from nuclei.device import setup_device
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits

VALIDATED = 128  # crops of the training part
REPEATS = 5  # of this project's: once is over in a moment


def baseline_validates(name: str, workspace: Workspace) -> Workload:
    setup_device(workspace.device, workspace.threads)
    network = baseline.NETWORKS[name]().to(workspace.device)
    batches = baseline.loader(workspace.png / "train", workspace.index("train")[:VALIDATED])

    def run() -> int:
        baseline.validate(network, batches, workspace.device)
        return len(batches.dataset)

    return Workload(run)


def baseline_predicts(name: str, workspace: Workspace) -> Workload:
    setup_device(workspace.device, workspace.threads)
    network = baseline.NETWORKS[name]().to(workspace.device)
    index = workspace.index("test")

    def run() -> int:
        return len(baseline.predict(network, workspace.png / "test", index, workspace.device))

    return Workload(run)


def run_project(name: str, part: str, most: int | None, tta: bool, workspace: Workspace) -> Workload:
    device = setup_device(workspace.device, workspace.threads)
    network = build(SHAPES[name], seed=0).to(device)
    crops = open_crops(workspace.crops, part)[:most]
    how = device, params().train.precision, tta
    predict_logits(network, crops[:64], *how)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 3, 100, 100, device=device))

    def run() -> int:
        return sum(len(np.argmax(predict_logits(network, crops, *how), axis=1)) for _ in range(REPEATS))

    return Workload(run, counter.get_total_flops() / 2 * (8 if tta else 1))


IMPLEMENTATIONS: dict[str, Implementation] = {
    f"{what} {name}": partial(implementation, name, *arguments)
    for name in SHAPES
    for what, implementation, arguments in (
        ("baseline validates", baseline_validates, ()),
        ("project validates", run_project, ("train", VALIDATED, False)),
        ("baseline predicts", baseline_predicts, ()),
        ("project predicts", run_project, ("test", None, False)),
        ("project predicts averaged", run_project, ("test", None, True)),
    )
}
