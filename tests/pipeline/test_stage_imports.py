import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.interruptions import heed_ctrl_c

# What takes seconds to import, and only networks, the search and heat maps need.
SLOW = {"torch", "torchvision", "sklearn", "scipy.stats", "skimage", "captum", "ray", "sympy"}
WITHOUT_NETWORKS = (
    "sample",
    "unzip",
    "overlap",
    "split",
    "evaluate",
    "primary_metrics",
    "review",
    "figures",
    "report",
)


def imported_by(stages: tuple[str, ...]) -> dict[str, str]:
    """Which of these stages, imported one after another in a new process, is the first to import each of SLOW."""
    code = f"""if True:
        import gc, importlib, json, sys
        first = {{}}
        for stage in {stages!r}:
            importlib.import_module("stages." + stage)
            first |= {{name: stage for name in {SLOW!r} & sys.modules.keys() if name not in first}}
        assert gc.get_stats()[-1]["collections"] == 0, "imports look for garbage in all there is"
        print(json.dumps(first))
    """
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_stages_without_networks_import_nothing_slow():
    assert imported_by(WITHOUT_NETWORKS) == {}


def test_training_imports_torch_and_no_more():
    assert imported_by(("weights", "train")) == {"torch": "weights"}


@pytest.mark.parametrize("module", ["numpy.exceptions", "numpy", "torch"])
def test_ctrl_c_while_a_stage_imports_is_one_line(module, tmp_path):
    """In an empty folder: a stage that came to its work would say that params.yaml is missing."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-X", "importtime", "-m", "stages.tune"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    ) as process:
        assert any(line.endswith(f" {module}\n") for line in process.stderr), "it is never imported"
        process.send_signal(signal.SIGINT)
        errors = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 128 + signal.SIGINT
    assert errors == ["error: interrupted\n"]
