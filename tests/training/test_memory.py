"""Workers that Ray's memory monitor kills: a line that names the cause and the remedy, in the place of Ray's pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path

from coloured import folded

from nuclei.device import Compute
from nuclei.errors import run
from nuclei.params import load_params
from nuclei.task import COLON
from nuclei.training.train import network_config, train_folds
from nuclei.training.tuning import SearchData, inner_split, search

def main():
    params, crops = load_params(Path(sys.argv[1]) / "params.yaml"), folded(24, 3, [0, 1])
    if sys.argv[2] == "search":
        search(["cnn"], SearchData(params, {}, *inner_split(crops)), Path("resume"))
    else:
        tuned = {"lr": 0.01, "batch_size": 8, "width_1": 8, "width_2": 8}
        train_folds(network_config("cnn", params, COLON, tuned, {}), crops, Compute("cpu", 1), Path("resume"))

run(main)
"""


@pytest.mark.parametrize(("what", "cores"), [("search", "tune.cpus_per_trial"), ("train", "train.threads")])
def test_a_machine_without_memory_is_named(what, cores, tmp_path):
    monitor = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    environment = os.environ | monitor | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    command = [sys.executable, "-c", PROGRAM, ROOT, what]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if "step" not in line]
    assert error.startswith("error: the machine ran out of memory, and Ray ended worker after worker")
    assert f"more {cores} for each" in error
