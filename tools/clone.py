"""Small working copies of the project, for programs and tests that run the whole of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]

TINY = {  # the whole pipeline in a minute
    "threads": 1,  # two that share such small work wait for each other: three times the CPU time
    "sample": {"train": 60, "test": 12, "patients": 3},
    "split": {"folds": 3},
    "cnn": {"filters": [8, 8, 16, 16]},
    "resnet": {"size": 32},
    "tune": {"trials": 2, "rungs": [0.5]},
    "train_cnn": {"epochs": 2},
    "train_resnet": {"epochs": 1},
    "robustness": {"factors": [2.0], "blur": [], "jpeg": [30], "gamma": [], "resolution": [], "stains": []},
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


def change_params(path: Path, changes: dict) -> None:
    """Change a params.yaml: {"train_cnn.seed": 1} or nested sections."""
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        values = params
        for section in sections:
            values = values[section]
        values[last] = values[last] | value if isinstance(value, dict) else value
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


def copy_project(path: Path) -> Clone:
    """Copy what Git would hold of the working tree, uncommitted changes too, into a Git repository of its own."""
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
    return clone


def clone_project(path: Path) -> Clone:
    """Copy the project as `copy_project` does, shrink the sample, and commit."""
    clone = copy_project(path)
    clone.set(TINY)
    clone.commit()
    return clone
