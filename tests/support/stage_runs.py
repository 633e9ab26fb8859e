"""One stage at work, without DVC."""

import os
import subprocess
import sys
from pathlib import Path

from tools.clone import ROOT


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
