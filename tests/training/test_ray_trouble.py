"""What Ray finds when it starts: no memory, or no home; a line names the cause and the remedy, not Ray's pages."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tools.clone import ROOT, change_params

START = """
import ray

from nuclei.cluster import ray_cluster
from nuclei.errors import run

def start():
    with ray_cluster():
        print(ray.get(ray.remote(lambda: "at work").remote()))

run(start)
"""
SEARCH_AND_TRAIN = """
from pathlib import Path

from coloured import folded

from nuclei import cluster
from nuclei.device import Compute
from nuclei.errors import InputError
from nuclei.params import load_params
from nuclei.task import COLON
from nuclei.training import train as training
from nuclei.training.tuning import SearchData, inner_split, search

params, crops = load_params(Path("params.yaml")), folded(24, 3, [0, 1])
training.has_room_for_one = lambda compute: False  # on Ray, of one core only
cluster.ATTEMPTS = 1  # each takes seconds

def start_search():
    search(["cnn"], SearchData(params, {}, *inner_split(crops)), Path("resume"))

def train():
    tuned = {"lr": 0.01, "batch_size": 8, "width_1": 8, "width_2": 8}
    network = training.network_config("cnn", params, COLON, tuned, {})
    training.train_folds(network, crops, Compute("cpu", 1), Path("resume"))

with cluster.ray_cluster():
    for work in (start_search, train):
        try:
            work()
        except InputError as error:
            print(f"refused: {error}")
"""


def execute(folder: Path, code: str, environment: dict[str, str], before: Sequence[str] = ()) -> CompletedProcess:
    """Run `code` in `folder`; `before`: what goes before the command."""
    environment = environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    command = [*before, sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_machine_without_memory_is_named(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"cnn.filters": [4, 4, 8, 8], "tune": {"trials": 1, "rungs": [0.25]}})
    monitor = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    done = execute(tmp_path, SEARCH_AND_TRAIN, os.environ | monitor)
    errors = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    assert done.returncode == 0 and len(errors) == 2, done.stderr
    for error, cores in zip(errors, ("tune.cpus_per_trial", "train.threads"), strict=True):
        assert error.startswith("refused: the machine ran out of memory, and Ray ended worker after worker")
        assert f"more {cores} for each" in error


NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=+dac_read_search"]
CAN_BECOME_NOBODY = os.name == "posix" and os.geteuid() == 0 and shutil.which("setpriv") is not None


@pytest.mark.skipif(not CAN_BECOME_NOBODY, reason="needs root and setpriv, to run as a user without a name")
@pytest.mark.parametrize("home", ["/", None], ids=["a home that cannot be written to", "no home"])
def test_a_user_without_a_name_learns_that_the_home_folder_is_at_fault_or_goes_on(home, tmp_path):
    work = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are root's alone
    work.chmod(0o777)
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment |= {"RAY_TMPDIR": str(work)} | ({"HOME": home} if home else {})
    done = execute(work, START, environment, before=[*NOBODY, "--ambient-caps=+dac_read_search"])
    shutil.rmtree(work, ignore_errors=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    if home:
        message = "error: Ray keeps its token in the home folder, /, which cannot be written to: set HOME to a folder"
        assert done.returncode == 1 and len(errors) == 1 and errors[0].startswith(message)
    else:
        assert (done.returncode, done.stdout, errors) == (0, "at work\n", [])
