"""Validation, and prediction of the test set, data included."""

from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import seed
from benchmarks.measure import Job, Way
from benchmarks.setting import Setting, params
from benchmarks.training import SHAPES
from nuclei.crops import open_crops
from nuclei.device import choose_device
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits

VALIDATED = 128  # crops of the training part
TIMES = 5  # that ours does it: once is over in a moment


def seed_validates(name: str, setting: Setting) -> Job:
    choose_device(setting.device, setting.threads)
    network = seed.NETWORKS[name]().to(setting.device)
    batches = seed.loader(setting.png / "train", setting.index("train")[:VALIDATED])

    def run() -> int:
        seed.validate(network, batches, setting.device)
        return len(batches.dataset)

    return Job(run)


def seed_predicts(name: str, setting: Setting) -> Job:
    choose_device(setting.device, setting.threads)
    network = seed.NETWORKS[name]().to(setting.device)
    index = setting.index("test")

    def run() -> int:
        return len(seed.predict(network, setting.png / "test", index, setting.device))

    return Job(run)


def ours(name: str, part: str, most: int | None, tta: bool, setting: Setting) -> Job:
    device = choose_device(setting.device, setting.threads)
    network = build(SHAPES[name], seed=0).to(device)
    crops = open_crops(setting.crops, part)[:most]
    how = device, params().train.precision, tta
    predict_logits(network, crops[:64], *how)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 3, 100, 100, device=device))

    def run() -> int:
        return sum(len(np.argmax(predict_logits(network, crops, *how), axis=1)) for _ in range(TIMES))

    return Job(run, counter.get_total_flops() / 2 * (8 if tta else 1))


WAYS: dict[str, Way] = {
    f"{what} {name}": partial(way, name, *arguments)
    for name in SHAPES
    for what, way, arguments in (
        ("seed validates", seed_validates, ()),
        ("ours validates", ours, ("train", VALIDATED, False)),
        ("seed predicts", seed_predicts, ()),
        ("ours predicts", ours, ("test", None, False)),
        ("ours predicts averaged", ours, ("test", None, True)),
    )
}
