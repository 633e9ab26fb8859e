import json
import subprocess
import sys

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
        import importlib, json, sys
        first = {{}}
        for stage in {stages!r}:
            importlib.import_module("stages." + stage)
            first |= {{name: stage for name in {SLOW!r} & sys.modules.keys() if name not in first}}
        print(json.dumps(first))
    """
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_stages_without_networks_import_nothing_slow():
    assert imported_by(WITHOUT_NETWORKS) == {}


def test_training_imports_torch_and_no_more():
    assert imported_by(("weights", "train")) == {"torch": "weights"}
