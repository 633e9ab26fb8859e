"""Kill a small `dvc repro` with SIGKILL at 20 moments, let it go on each time, and compare all bytes in the end.

uv run python -m tools.kill_matrix       about ten minutes
"""

import re
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tools.certificate import certify
from tools.clone import Clone, clone_project
from tools.interruptions import Repro, leftovers, still_alive

CHANGES = {"train_cnn.epochs": 6, "train_resnet.epochs": 3}  # enough to go on from
# Stage; when: a share of the seconds that it takes undisturbed, or a file of its folder in data/.resume that is
# written; and who is killed: DVC, which takes the stage with it, or the stage alone.
MOMENTS = [
    ("sample", 0.8, "stage"),
    ("unzip", 0.9, "dvc"),
    ("overlap", 0.5, "stage"),
    ("split", 0.9, "dvc"),
    ("weights", 0.1, "dvc"),
    ("tune", 0.2, "stage"),
    ("tune", "trials.safetensors", "dvc"),
    ("tune", "trials.safetensors", "stage"),
    ("train_cnn", "0.safetensors", "stage"),
    ("train_cnn", "1.safetensors", "dvc"),
    ("train_cnn", "all.safetensors", "stage"),
    ("train_resnet", "0.safetensors", "stage"),
    ("train_resnet", "1.safetensors", "dvc"),
    ("train_resnet", "all.safetensors", "dvc"),
    ("evaluate", 0.7, "dvc"),
    ("robustness", 0.5, "stage"),
    ("review", 0.9, "dvc"),
    ("explain", 0.8, "stage"),
    ("submit", 0.9, "dvc"),
    ("report", 0.5, "stage"),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        undisturbed, killed = (prepare(Path(name) / part) for part in ("undisturbed", "killed"))
        seconds = durations(Repro(undisturbed))
        rows, outputs = [], []
        for moment in MOMENTS:
            with Repro(killed) as run:
                rows.append(kill(run, *moment, seconds) | {"temporary files": len(leftovers(killed.path))})
            outputs.append(run.output)
            print(rows[-1], flush=True)
        last = Repro(killed)
        exit_code = last.dvc.wait()
        outputs.append(last.output)
        different = certify(undisturbed, killed)["different"]
        stages = [yaml.safe_load((clone.path / "dvc.lock").read_text())["stages"] for clone in (undisturbed, killed)]

    for row, output in zip(rows, outputs[1:], strict=True):
        row["then"] = what_became_of(row["stage"], output)
        row["same bytes"] = stages[0][row["stage"]] == stages[1].get(row["stage"])
    print(pd.DataFrame(rows, index=range(1, len(rows) + 1)).to_string())
    print(f"the last `dvc repro` exits with {exit_code}; {len(different)} files differ {different}")
    sys.exit(bool(exit_code or different))


def prepare(folder: Path) -> Clone:
    folder.mkdir()
    clone = clone_project(folder)
    clone.set(CHANGES)
    return clone


def durations(run: Repro) -> dict[str, float]:
    """Seconds that each stage takes, by when DVC names it and the next one."""
    starts: dict[str, float] = {}
    while run.dvc.poll() is None:
        for stage in re.findall(r"Running stage '(\w+)'", run.output):
            starts.setdefault(stage, time.monotonic())
        time.sleep(0.05)
    if run.dvc.wait():
        sys.exit(run.output)
    return {name: end - start for (name, start), (_, end) in pairwise([*starts.items(), ("", time.monotonic())])}


def kill(run: Repro, stage: str, when: float | str, victim: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Kill at that moment; say what was hit, and how many processes are left."""
    if isinstance(when, str):
        file = run.clone.path / "data/.resume" / stage / when
        written = modified(file)
        run.wait_until(lambda: modified(file) != written)
        moment = f"{when} written"
    else:
        run.wait_until(lambda: f"Running stage '{stage}'" in run.output)
        start = time.monotonic()
        run.wait_until(lambda: time.monotonic() > start + when * seconds[stage])
        moment = f"{when:.0%} of {seconds[stage]:.1f} s"
    run.wait_until(lambda: victim == "dvc" or run.stage)
    running = run.stage
    left = still_alive(run.interrupt(victim))
    hit = running[1] if running else "between stages"
    return {"stage": stage, "moment": moment, "killed": victim, "hit": hit, "processes": len(left)}


def modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


def what_became_of(stage: str, output: str) -> str:
    """What the next `dvc repro` did with a stage: goes by DVC's and the stage's own lines."""
    _, _, after = output.partition(f"Running stage '{stage}'")
    printed = after.split("Running stage")[0]
    resumed = [line for line in printed.splitlines() if "interrupted run" in line]
    return "; ".join(resumed) or ("ran again" if after else "was done")


if __name__ == "__main__":
    main()
