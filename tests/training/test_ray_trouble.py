"""What Ray finds when it starts: no memory, or no home; a line names the cause and the remedy, not Ray's pages."""

import os
import shutil
import subprocess
import sys
import tempfile
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


NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=+dac_read_search"]
CAN_BECOME_NOBODY = os.name == "posix" and os.geteuid() == 0 and shutil.which("setpriv") is not None


@pytest.mark.skipif(not CAN_BECOME_NOBODY, reason="needs root and setpriv, to run as a user without a name")
@pytest.mark.parametrize("home", ["/", None], ids=["a home that cannot be written to", "no home"])
def test_a_user_without_a_name_learns_that_the_home_folder_is_at_fault_or_goes_on(home, tmp_path):
    work = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are root's alone
    work.chmod(0o777)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}", "RAY_TMPDIR": str(work)}
    environment = {name: value for name, value in environment.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment |= {"HOME": home} if home else {}
    command = [*NOBODY, "--ambient-caps=+dac_read_search", sys.executable, "-c", PROGRAM, ROOT, "search"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    shutil.rmtree(work, ignore_errors=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    if home:
        message = "error: Ray keeps its token in the home folder, /, which cannot be written to: set HOME to a folder"
        assert done.returncode == 1 and len(errors) == 1 and errors[0].startswith(message)
    else:
        assert (done.returncode, errors) == (0, [])
