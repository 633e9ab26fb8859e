"""Experiments that are queued and run at once."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from test_pipeline import TRAINING, read_json, reruns

from nuclei.models.checkpoint import load_model
from nuclei.models.predict import predict_probabilities
from nuclei.task import NETWORKS
from tools.clone import Clone

SUBMIT = ["primary_metrics", "submit"]
QUEUED = {
    "cnn": [*SUBMIT, "-Smodel=cnn", "-Spredict.average=folds", "-Spredict.labelled_neighbours=false"],
    "low-lr": ["train_cnn", "-Slr=0.00005", "-Sepochs=1"],
}


@pytest.fixture(scope="module")
def queue(finished, tmp_path_factory):
    """A copy of the finished clone, in which the queued experiments have run, two at a time."""
    clone = Clone(tmp_path_factory.mktemp("queue") / "project")
    shutil.copytree(finished.path, clone.path, symlinks=True)
    for name, words in QUEUED.items():
        clone.run("dvc", "exp", "run", "--queue", "-n", name, *words)
    # On a terminal it returns at once; here, when its workers close the output that they share with it.
    clone.run("dvc", "queue", "start", "-j", "2")
    return clone


@pytest.fixture
def applied(queue):
    """Bring the results of an experiment into the workspace, until the test ends."""
    yield lambda name: queue.run("dvc", "exp", "apply", name)
    queue.run("git", "checkout", ".")


def stages_run(queue: Clone, name: str) -> list[str]:
    return re.findall("Running stage '(.+)'", queue.run("dvc", "queue", "logs", name).stdout)


def test_queued_experiments_run_at_once_and_leave_no_process(queue):
    assert queue.run("dvc", "queue", "status").stdout.count("Success") == len(QUEUED)
    assert not [
        process for process in psutil.process_iter(["cwd"]) if (process.info["cwd"] or "").startswith(str(queue.path))
    ]


def test_exp_show_lists_experiments_with_their_parameters(queue):
    shown = {
        experiment["name"]: experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]
        for branch in json.loads(queue.run("dvc", "exp", "show", "--json").stdout)
        for experiment in branch["experiments"] or []
    }
    assert {name: (params["predict"]["average"], params["lr"]) for name, params in shown.items()} == {
        "cnn": ("folds", None),
        "low-lr": ("final", 0.00005),
    }


def test_an_experiment_runs_what_its_parameters_change(queue):
    assert sorted(stages_run(queue, "cnn")) == SUBMIT


def test_metrics_diff_compares_the_two_models(queue):
    diff = json.loads(queue.run("dvc", "metrics", "diff", "main", "cnn", "--json").stdout)
    change = diff["reports/metrics.json"]["log_loss"]
    scores = {name: read_json(queue, f"reports/evaluate/metrics_{name}.json") for name in NETWORKS}
    assert (change["old"], change["new"]) == (scores["resnet"]["log_loss"], scores["cnn"]["log_loss"])


def test_exp_apply_brings_the_results_of_each_into_the_workspace(queue, applied):
    found = []
    for name in QUEUED:
        applied(name)
        epochs = pd.read_csv(queue.path / "reports/train/cnn/curves.csv")["epoch"].max()
        primary = read_json(queue, "reports/metrics.json")["log_loss"]
        scores = {network: read_json(queue, f"reports/evaluate/metrics_{network}.json") for network in NETWORKS}
        found.append((epochs, [network for network in NETWORKS if scores[network]["log_loss"] == primary]))
        queue.run("git", "checkout", ".")
    assert found == [(2, ["cnn"]), (1, ["resnet"])]


def test_submissions_may_be_the_average_of_the_folds_networks(queue, applied):
    applied("cnn")
    models = [load_model(queue.path / f"data/models/cnn/fold_{fold}.safetensors") for fold in range(2)]
    crops = np.load(queue.path / "data/crops/test.npy")
    probabilities = [predict_probabilities(model, crops, torch.device("cpu"), "auto", tta=True) for model in models]
    mean, submission = np.mean(probabilities, axis=0), pd.read_csv(queue.path / "reports/submit/submission_cnn.csv")
    assert np.allclose(mean[np.arange(len(mean)), submission["Label"]], mean.max(axis=1), atol=0.02)


def test_lr_on_the_command_line_trains_and_runs_nothing_before(queue, applied):
    assert stages_run(queue, "low-lr") == ["train_cnn"]
    applied("low-lr")
    assert reruns(queue) == TRAINING - {"train_cnn"} | {"report"}
    curves = pd.read_csv(queue.path / "reports/train/cnn/curves.csv")
    assert curves["fold"].tolist() == ["0", "1", "all"] and (curves["lr"] <= 0.00005).all()
