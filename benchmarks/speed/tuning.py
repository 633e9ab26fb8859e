"""A tuning run: the same number of trials and epochs of both networks, validation included."""

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import baseline
from benchmarks.measure import Implementation, Workload
from benchmarks.speed.training import BATCH_SIZE, SHAPES, config
from benchmarks.workspace import Workspace, params
from nuclei.crops import LabelledCrops, open_crops
from nuclei.device import setup_device
from nuclei.models.networks import build
from nuclei.params import Params
from nuclei.training.loop import fit
from nuclei.training.tuning import SearchData, search

TRIALS = 2  # a network, of one epoch each
LR = [0.0005, 0.001]
VALIDATED = 128  # crops


def run_baseline(workspace: Workspace) -> Workload:
    index = workspace.index("train")

    def run() -> int:
        return tune_baseline(workspace.png / "train", index[:-VALIDATED], index[-VALIDATED:], workspace.device)

    return Workload(run)


def tune_baseline(png: Path, fitting: pd.DataFrame, validation: pd.DataFrame, device: str) -> int:
    """Ray Tune as it comes: one CPU a trial, each with eight workers of its own and the files on disk."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray
    from ray import tune

    png = png.resolve()  # trials run elsewhere

    def trial(config: dict) -> None:
        network = baseline.NETWORKS[config["model"]]().to(device)
        optimizer = baseline.adam(network, config["lr"])
        baseline.train_epoch(network, optimizer, baseline.loader(png, fitting, shuffle=True), device)
        tune.report({"accuracy": baseline.validate(network, baseline.loader(png, validation), device)})

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    space = {"model": tune.grid_search(list(baseline.NETWORKS)), "lr": tune.grid_search(LR)}
    with tempfile.TemporaryDirectory() as storage:
        run = tune.RunConfig(storage_path=storage)
        results = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1, "gpu": shared_gpus(device)}), param_space=space, run_config=run
        ).fit()
    ray.shutdown()
    if results.errors:
        raise results.errors[0]
    return len(results)


def shared_gpus(device: str) -> int:
    """GPUs that a trial takes: trials on a GPU run one after another."""
    return int(device == "cuda")


def run_project(workspace: Workspace, crops: int | None = None) -> Workload:
    """crops: how many are trained on; a handful shows what starting and stopping Ray takes"""
    sets = [each.take(np.arange(len(each))[:crops]) for each in _crops(workspace)]
    data = SearchData(search_params(workspace.device), {}, *sets)

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=workspace.folder) as folder:  # nothing to go on from
            tables = search(list(SHAPES), data, Path(folder))
        return sum(map(len, tables.values()))

    return Workload(run)


def search_params(device: str, trials: int = TRIALS) -> Params:
    """The project's parameters, but for a search of a single rung, one epoch a trial."""
    chosen = params()
    tune = {"trials": trials, "rungs": [1.0], "batch_size": [BATCH_SIZE], "gpus_per_trial": shared_gpus(device)}
    return chosen.model_copy(
        update={
            "device": device,
            "tune": chosen.tune.model_copy(update=tune),
            "train_cnn": chosen.train_cnn.model_copy(update={"epochs": 1}),
            "train_resnet": chosen.train_resnet.model_copy(update={"epochs": 1}),
        }
    )


def alone(workspace: Workspace) -> Workload:
    """The same trials one after another, without Ray, each on all threads."""
    train, validation = _crops(workspace)
    device = setup_device(workspace.device, workspace.threads)

    def run() -> int:
        for shape in SHAPES.values():
            for _ in range(TRIALS):
                list(fit(build(shape, seed=0), train, validation, config(len(train)), device))
        return TRIALS * len(SHAPES)

    return Workload(run)


def _crops(workspace: Workspace) -> tuple[LabelledCrops, LabelledCrops]:
    crops, labels = open_crops(workspace.crops, "train"), workspace.index("train")["Label"].to_numpy(np.int64)
    fit_on, validate_on = slice(None, -VALIDATED), slice(-VALIDATED, None)
    return LabelledCrops(crops[fit_on], labels[fit_on]), LabelledCrops(crops[validate_on], labels[validate_on])


IMPLEMENTATIONS: dict[str, Implementation] = {
    "baseline": run_baseline,
    "project": run_project,
    "start": partial(run_project, crops=4),
    "alone": alone,
}
