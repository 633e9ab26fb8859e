"""Experiments that are queued and run at once, each with a Ray of its own."""

import json

import pandas as pd
import psutil
import pytest

QUEUED = {"one-trial": ["tune.trials=1"], "other-seed": ["tune.trials=1", "tune.seed=5"]}


@pytest.fixture(scope="module")
def queue(finished):
    for name, changes in QUEUED.items():
        finished.run("dvc", "exp", "run", "--queue", "-n", name, *(f"-S{change}" for change in changes), "tune")
    # On a terminal it returns at once; here, when its workers close the output that they share with it.
    finished.run("dvc", "queue", "start", "-j", "2")
    yield finished
    finished.run("git", "checkout", ".")
    finished.run("dvc", "checkout")
    finished.run("dvc", "exp", "remove", *QUEUED)


def test_queued_experiments_run_at_once_and_leave_no_process(queue):
    for name in QUEUED:
        log = queue.run("dvc", "queue", "logs", name).stdout
        assert "Running stage 'tune'" in log and "resnet: {'lr'" in log, log
    assert queue.run("dvc", "queue", "status").stdout.count("Success") == len(QUEUED)
    assert not [
        process for process in psutil.process_iter(["cwd"]) if (process.info["cwd"] or "").startswith(str(queue.path))
    ]


def test_exp_show_lists_experiments_with_their_parameters(queue):
    shown = {
        some["name"]: some["revs"][0]["data"]["params"]["params.yaml"]["data"]["tune"]
        for branch in json.loads(queue.run("dvc", "exp", "show", "--json").stdout)
        for some in branch["experiments"] or []
    }
    assert shown["one-trial"]["trials"] == shown["other-seed"]["trials"] == 1
    assert (shown["one-trial"]["seed"], shown["other-seed"]["seed"]) == (0, 5)


def test_exp_apply_brings_the_results_of_each_into_the_workspace(queue):
    rates = []
    for name in QUEUED:
        queue.run("dvc", "exp", "apply", name)
        table = pd.read_csv(queue.path / "reports/trials_resnet.csv")
        tuned = json.loads((queue.path / "reports/tuned_resnet.json").read_text())
        assert len(table) == 1 and tuned["lr"] == table["lr"][0]
        rates.append(tuned["lr"])
        queue.run("git", "checkout", ".")
    assert rates[0] != rates[1]
