"""One measurement, in a process of its own: `python -m benchmarks.measure MODULE IMPLEMENTATION REQUEST ANSWER`."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.workspace import PROJECT, Workspace


@dataclass(frozen=True)
class Workload:
    """What is timed, all prepared: `run` returns how many units (crops, trial-epochs ...) it worked through.

    flop: floating-point operations of one unit, where they are what limits it; notes: go into the results as they are
    """

    run: Callable[[], float]
    flop: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


Implementation = Callable[[Workspace], Workload]


def measure(module: str, implementation: str, workspace: Workspace) -> dict[str, Any]:
    """Run `implementation` of benchmarks.<module> once and return its figures.

    seconds: wall clock; cpu_seconds: of the process and its children; units, flop, notes: see `Workload`;
    memory: bytes, how far process and children rose above the bare interpreter (only on Linux). Pages of memory-mapped
    files are not counted: they are the system's to take back.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        request.write_text(json.dumps(asdict(workspace), default=str))
        command = [sys.executable, "-m", "benchmarks.measure", module, implementation, str(request), str(answer)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"{module}, {implementation} exited with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return json.loads(answer.read_text())


def main() -> None:
    module, implementation, request, answer = sys.argv[1:]
    values = json.loads(Path(request).read_text())
    workspace = Workspace(**values | {"folder": Path(values["folder"])})
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # the baseline's eight workers
    implementations = import_module(f"benchmarks.{module}").IMPLEMENTATIONS
    with Watch() as watch:
        workload = implementations[implementation](workspace)
        cpu, start = _cpu_seconds(), time.perf_counter()
        units = workload.run()
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    figures = {"seconds": seconds, "cpu_seconds": cpu, "units": units, "flop": workload.flop, "memory": watch.risen}
    Path(answer).write_text(json.dumps(figures | {"notes": workload.notes}))


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Watch:
    """Follows the memory of this process and its children. risen: bytes from the start to the peak, None if unknown."""

    def __enter__(self) -> "Watch":
        self._first = self._peak = _private_memory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def risen(self) -> int | None:
        return self._peak - self._first if self._first else None

    def _follow(self) -> None:
        while not self._stop.wait(0.1):
            self._peak = max(self._peak, _private_memory())


def _private_memory() -> int:
    """Bytes that belong to this process and its children and to no file; what they share counts once. 0: unknown."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            waiting += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
        except OSError:  # not Linux, or just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem"))) * 1024
    return total


if __name__ == "__main__":
    main()
