"""A search and a training that are interrupted three times, against those that were left alone."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tools.certificate import certify
from tools.clone import Clone
from tools.interruptions import Repro, leftovers, still_alive

VICTIMS = {  # who is hit once that file of data/.resume is written, and the run has said that
    "Ctrl-C": ("tune/trials.safetensors", ""),
    "dvc": ("train_resnet/0.safetensors", ""),
    "stage": ("train_resnet/all.safetensors", "fold 0: goes on"),
}


@pytest.fixture(scope="module")
def seen(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished clone that is to search and train once more; what was seen at each interruption, and at the end."""
    folder = tmp_path_factory.mktemp("interrupted") / "project"
    shutil.copytree(finished.path, folder, symlinks=True)
    clone, hits, second = Clone(folder), {}, None
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    for stage in ("tune", "train_resnet"):
        lock["stages"][stage]["cmd"] = "another one"
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    shutil.rmtree(folder / ".dvc/cache/runs")
    for victim, (file, words) in VICTIMS.items():
        with Repro(clone) as run:
            if victim == "Ctrl-C":
                run.wait_until(lambda run=run: "Running stage 'tune'" in run.output)
                second = clone.run("dvc", "repro", check=False)
            path = folder / "data/.resume" / file
            at_work = run.wait_until(
                lambda run=run, path=path, words=words: path.exists() and words in run.output and run.stage
            )
            assert at_work, run.output
            stage, _ = at_work
            family = run.interrupt(victim)
            hits[victim] = SimpleNamespace(
                dvc=run.dvc.pid, stage=stage.pid, family=family, output=run.output, files=leftovers(folder)
            )
    return SimpleNamespace(clone=clone, hits=hits, second=second, last=clone.run("dvc", "repro"))


@pytest.mark.parametrize("victim", VICTIMS)
def test_no_process_is_left(seen, victim):
    assert still_alive(seen.hits[victim].family) == []


def test_ctrl_c_ends_with_one_line_and_leaves_neither_half_a_file_nor_a_trace_of_ray(seen):
    hit = seen.hits["Ctrl-C"]
    assert "error: interrupted\n" in hit.output and "Traceback" not in hit.output
    assert hit.files == []
    assert not list(Path("/tmp/ray").glob(f"session_*_{hit.stage}"))


def test_a_dvc_beside_another_one_says_who_is_at_work(seen):
    assert seen.second.returncode == 255
    assert f"(PID {seen.hits['Ctrl-C'].dvc})" in seen.second.stderr


def test_trials_that_were_done_are_not_run_again(seen):
    before, after = (re.findall(r"(\w+ rung 0 trial \d):", seen.hits[victim].output) for victim in ("Ctrl-C", "dvc"))
    assert len(before) >= 1 and not set(before) & set(after)
    assert len(before + after) == 2 * 2
    assert f"trials that an interrupted run had done: {len(before)}" in seen.hits["dvc"].output


@pytest.mark.parametrize(("network", "then"), [("fold 0", "stage"), ("all crops", "last")])
def test_training_goes_on_after_its_last_epoch(seen, network, then):
    output = seen.last.stdout if then == "last" else seen.hits[then].output
    assert re.search(rf"resnet, {network}: goes on after epoch \d of an interrupted run", output)


def test_equal_bytes_rerun_nothing_further(seen):
    assert re.findall("Running stage '(.+)'", seen.last.stdout) == ["train_resnet"]


def test_what_was_kept_goes_when_a_stage_ends_well(seen):
    assert list((seen.clone.path / "data/.resume").iterdir()) == []


def test_two_clones_get_the_same_bytes_though_one_was_interrupted(seen, finished):
    certificate = certify(finished, seen.clone)
    assert certificate["different"] == []
    compared = {"dvc.lock", "data/models/resnet/final.safetensors", "reports/figures/trials.png"}
    assert compared <= certificate["files"].keys()


def test_the_certificate_says_what_differs_and_where_it_was_made(seen, finished):
    table = seen.clone.path / "reports/evaluate/metrics_cnn.json"
    original = table.read_text()
    table.write_text(original.replace("0", "1", 1))
    (seen.clone.path / "reports/new.json").write_text("{}")
    try:
        certificate = certify(finished, seen.clone)
    finally:
        table.write_text(original)
        (seen.clone.path / "reports/new.json").unlink()
    assert certificate["different"] == ["reports/evaluate/metrics_cnn.json", "reports/new.json"]
    environment = certificate["environment"]
    assert environment["threads"] == 1 and environment["processor"]
    assert {"torch", "sympy", "pillow"} <= environment["packages"].keys()  # sympy: what PyTorch asks for
    assert json.loads(json.dumps(certificate)) == certificate
