"""Experiments that are queued and run at once, each with a Ray of its own."""

import json
import re
import shutil

import pandas as pd
import psutil
import pytest
from test_pipeline import TRAINING, reruns

from tools.clone import Clone

QUEUED = {"one-trial": ["tune", "-Stune.trials=1"], "low-lr": ["train_cnn", "-Slr=0.00005", "-Sepochs=1"]}


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
    assert {name: (params["tune"]["trials"], params["lr"]) for name, params in shown.items()} == {
        "one-trial": (1, None),
        "low-lr": (2, 0.00005),
    }


def test_exp_apply_brings_the_results_of_each_into_the_workspace(queue):
    folder = queue.path / "reports"
    counts = []
    for name in QUEUED:
        queue.run("dvc", "exp", "apply", name)
        table, curves = pd.read_csv(folder / "tune/resnet/trials.csv"), pd.read_csv(folder / "train/cnn/curves.csv")
        tuned = json.loads((folder / "tune/resnet/tuned.json").read_text())
        assert tuned["lr"] == table["lr"][0]
        counts.append((len(table), curves["epoch"].max()))
        queue.run("git", "checkout", ".")
    assert counts == [(1, 2), (2, 1)]


def test_lr_on_the_command_line_trains_and_runs_nothing_before(queue):
    said = queue.run("dvc", "queue", "logs", "low-lr").stdout
    assert re.findall("Running stage '(.+)'", said) == ["train_cnn"]
    queue.run("dvc", "exp", "apply", "low-lr")
    assert reruns(queue) == TRAINING - {"train_cnn"} | {"report"}
    curves = pd.read_csv(queue.path / "reports/train/cnn/curves.csv")
    assert curves["fold"].tolist() == ["0", "1", "all"] and (curves["lr"] <= 0.00005).all()
