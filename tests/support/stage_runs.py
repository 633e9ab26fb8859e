"""Stages at work, without DVC."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from importlib import import_module
from pathlib import Path

import pytest

from tools.clone import ROOT

BEFORE_TUNING = ("unzip", "overlap", "split", "weights")
FROM_TUNING = (
    *("tune", "train cnn", "train resnet", "evaluate", "primary_metrics", "robustness", "review"),
    *("explain", "submit", "figures", "report"),
)


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


def run_stages(folder: Path, stages: Sequence[str]) -> None:
    """Run stages one after another in this process, from `folder`; their Ray is `local_ray`."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        for stage in stages:
            name, *arguments = stage.split()
            patch.setattr(sys, "argv", [name, *arguments])
            import_module(f"stages.{name}").main()
