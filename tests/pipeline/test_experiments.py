"""Experiments that are queued and run at once, each with a Ray of its own."""

import json
import shutil

import pandas as pd
import psutil
import pytest

from tools.clone import Clone

QUEUED = {"one-trial": ["tune.trials=1"], "other-seed": ["tune.trials=1", "tune.seed=5"]}


@pytest.fixture(scope="module")
def queue(finished, tmp_path_factory):
    """A copy of the finished clone, in which the queued experiments have run, two at a time."""
    clone = Clone(tmp_path_factory.mktemp("queue") / "project")
    shutil.copytree(finished.path, clone.path, symlinks=True)
    for name, changes in QUEUED.items():
        clone.run("dvc", "exp", "run", "--queue", "-n", name, *(f"-S{change}" for change in changes), "tune")
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
        experiment["name"]: experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["tune"]
        for branch in json.loads(queue.run("dvc", "exp", "show", "--json").stdout)
        for experiment in branch["experiments"] or []
    }
    assert shown["one-trial"]["trials"] == shown["other-seed"]["trials"] == 1
    assert (shown["one-trial"]["seed"], shown["other-seed"]["seed"]) == (0, 5)


def test_exp_apply_brings_the_results_of_each_into_the_workspace(queue):
    rates = []
    for name in QUEUED:
        queue.run("dvc", "exp", "apply", name)
        table = pd.read_csv(queue.path / "reports/tune/resnet/trials.csv")
        tuned = json.loads((queue.path / "reports/tune/resnet/tuned.json").read_text())
        assert len(table) == 1 and tuned["lr"] == table["lr"][0]
        rates.append(tuned["lr"])
        queue.run("git", "checkout", ".")
    assert rates[0] != rates[1]
