import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

# Two test processes share the cores: threads that wait must not spin. Read when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parents[1]

TINY = {  # the whole pipeline in a minute
    "sample": {"train": 60, "test": 12, "patients": 3},
    "split": {"folds": 3},
    "cnn": {"filters": [8, 8, 16, 16]},
    "tune": {"trials": 2, "epochs": [1], "cpus_per_trial": 2},  # one worker, which imports PyTorch once
    "train_cnn": {"epochs": 2, "final_epochs": 1},
    "train_resnet": {"epochs": 1, "final_epochs": 1},
    "robustness": {"factors": [1.0, 2.0]},
    "explain": {
        "crops": 4,
        "gallery_crops": 1,
        "sanity_crops": 1,
        "random_networks": 2,
        "occlusion": [{"window": 50, "stride": 50}],
        "ig_steps": 2,
        "curve_points": 2,
    },
}

LONGEST = ("test_interrupt", "test_pipeline", "test_cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, then those that need a finished pipeline. Each process runs whole files."""

    def rank(item: pytest.Item) -> int:
        if item.path.stem in LONGEST:
            return LONGEST.index(item.path.stem)
        return len(LONGEST) + ("finished" not in item.fixturenames)

    items.sort(key=rank)


def change_params(path: Path, changes: dict) -> None:
    """Change a params.yaml: {"train_cnn.seed": 1} or nested sections."""
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = params
        for section in sections:
            place = place[section]
        if isinstance(value, dict):
            place[last] |= value
        else:
            place[last] = value
    text = yaml.safe_dump(params, sort_keys=False)
    path.write_text(text.replace(": null\n", ":\n"))


class Clone:
    """A working copy of the project, in a Git repository of its own."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def environment(self) -> dict[str, str]:
        """With this Python and its tools first on PATH."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command in the clone."""
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=1800
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def set(self, changes: dict) -> None:
        change_params(self.path / "params.yaml", changes)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run(
            "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "t"
        )


def clone_project(path: Path) -> Clone:
    """Copy what Git would hold of the working tree, uncommitted changes too, and shrink the sample."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    clone = Clone(path)
    clone.run("git", "init", "-q", "-b", "main")
    clone.set(TINY)
    clone.commit()
    return clone


def run_stage(name: str, folder: Path, **options) -> subprocess.CompletedProcess:
    """Run a stage in `folder` as DVC would, without DVC."""
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture
def new_clone(tmp_path: Path) -> Callable[[], Clone]:
    return lambda: clone_project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clone:
    """A clone in which `dvc repro` has run on a tiny sample. Tests that change it put it back.

    The first test process that needs it makes it; each works with a copy.
    """
    base = tmp_path_factory.getbasetemp()
    common = base if worker_id == "master" else base.parent
    made, log = common / "finished", common / "finished.log"
    with FileLock(common / "finished.lock"):
        if not made.exists():
            clone = clone_project(tmp_path_factory.mktemp("project"))
            log.write_text(clone.run("dvc", "repro").stdout)
            clone.commit()
            clone.path.rename(made)
    copy = Clone(tmp_path_factory.mktemp("finished") / "project")
    shutil.copytree(made, copy.path, symlinks=True)
    copy.first_output = log.read_text()
    return copy
