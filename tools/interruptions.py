"""A `dvc repro` in the background, and how to end it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tools.clone import Clone

PATIENCE = 900  # seconds for anything to happen, on however busy a machine


class Repro:
    """`dvc repro` as a terminal runs it: a process group of its own, output line by line; stages by a plain shell."""

    def __init__(self, clone: Clone, *options: str):
        self.clone = clone
        self.log = clone.path.with_name(f"{clone.path.name}.log")
        with self.log.open("w") as log:
            self.dvc = psutil.Popen(
                ["dvc", "repro", *options],
                cwd=clone.path,
                env=clone.environment | {"PYTHONUNBUFFERED": "1", "SHELL": "/bin/sh"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )

    def __enter__(self) -> "Repro":
        return self

    def __exit__(self, *error: object) -> None:
        if self.dvc.poll() is None:
            self.interrupt("dvc")

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def stage(self) -> tuple[psutil.Process, str] | None:
        """The process that runs a stage now, and the stage's command."""
        for child in self.dvc.children(recursive=True):  # a shell may stand between the two
            with suppress(psutil.Error):  # each of them may end at any moment, or have ended and not be waited for yet
                command = " ".join(child.cmdline()[2:])
                if command.startswith("stages."):
                    return child, command
        return None

    def wait_until(self, happened: Callable[[], Any]) -> Any:
        """Wait until `happened` gives something, and return that; None if `dvc repro` ended before."""
        start = time.monotonic()
        while not (found := happened()):
            if self.dvc.poll() is not None:
                return None
            assert time.monotonic() - start < PATIENCE, self.output
            time.sleep(0.01)
        return found

    def interrupt(self, victim: str) -> list[psutil.Process]:
        """Kill "dvc" or "stage" with SIGKILL, or press "Ctrl-C", and wait for dvc; return all that it had started."""
        if self.dvc.poll() is not None:
            return []
        family = [self.dvc, *self.dvc.children(recursive=True)]
        if victim == "Ctrl-C":
            os.killpg(self.dvc.pid, signal.SIGINT)
        else:
            running = self.stage if victim == "stage" else None
            (running[0] if running else self.dvc).kill()
        self.dvc.wait(PATIENCE)
        return family


def heed_ctrl_c() -> None:
    """In a new process: a shell has its background jobs ignore Ctrl-C, and what they start, a suite run with "&"."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def still_alive(processes: list[psutil.Process]) -> list[str]:
    """Return the commands of those that do not end. Ray's agents try for a minute to tell a head that is gone, too."""
    _, alive = psutil.wait_procs(processes, timeout=180)
    return [" ".join(process.cmdline()) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def leftovers(folder: Path) -> list[str]:
    """Temporary files of a run that was cut short; those beside what it kept go with that."""
    found = [path.relative_to(folder) for part in ("data", "reports") for path in (folder / part).rglob(".*.tmp*")]
    return [str(path) for path in found if ".resume" not in path.parts]
