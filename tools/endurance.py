"""Run 100 stages back to back, all in one process, and count what they leave behind.

uv run python -m tools.endurance       about five minutes
"""

import contextlib
import gc
import importlib
import io
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
import psutil
import yaml

from tools.clone import ROOT, clone_project

COMMANDS = [stage["cmd"].split()[2:] for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone_project(folder)
        counts = pd.DataFrame(endure(folder, COMMANDS, rounds=-(-100 // len(COMMANDS))))
    print(counts.to_string(index=False))


def endure(folder: Path, commands: list[list[str]], rounds: int) -> list[dict[str, float]]:
    """Run the stages in `folder` so many times and count after each round."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir()
    before = Path.cwd(), sys.argv, tempfile.tempdir
    os.chdir(folder)
    tempfile.tempdir = str(temporary)
    try:
        counts = []
        for number in range(rounds):
            for module, *arguments in commands:
                sys.argv = [module, *arguments]
                with contextlib.redirect_stdout(io.StringIO()):
                    importlib.import_module(module).main()
            counts.append({"stages": len(commands) * (number + 1)} | count(folder, temporary))
        return counts
    finally:
        os.chdir(before[0])
        sys.argv, tempfile.tempdir = before[1:]


def count(folder: Path, temporary: Path) -> dict[str, float]:
    gc.collect()
    this = psutil.Process()
    return {
        "memory (MB)": round(this.memory_info().rss / 1e6),
        "handles": this.num_fds(),
        "threads": this.num_threads(),
        "processes": len(this.children(recursive=True)),
        "files in the project": sum(len(files) for _, _, files in os.walk(folder)),
        "temporary files": len(list(temporary.iterdir())) + len(list(Path("/tmp/ray").glob(f"session_*_{this.pid}"))),
    }


if __name__ == "__main__":
    main()
