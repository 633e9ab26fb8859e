"""What this process may use of the machine that it runs on, without PyTorch."""

import gc
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path("/")


def usable_threads(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many CPU threads this process may keep busy, at least 1.

    The least of its affinity, the quotas of its control groups (containers, systemd) and what SLURM gave the task: on a
    shared node far less than `os.cpu_count()`, and more threads than that only get in each other's way.

    Args:
        root: Where /proc and /sys are looked for.
        environment: Where SLURM_CPUS_PER_TASK is looked for.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = environment.get("SLURM_CPUS_PER_TASK", "")
    limits = [affinity, *_cpu_quotas(root), *([float(slurm)] if slurm.isdecimal() else [])]
    return max(1, math.floor(min(limits)))


def usable_memory(root: Path = ROOT) -> int | None:
    """Return how many bytes this process may fill: the machine's, or its control group's; None where nothing tells.

    Args:
        root: Where /proc and /sys are looked for.
    """
    limits = [int(text) for folder in _control_groups(root, "memory") for text in _limits(folder, *MEMORY_FILES)]
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(1024 * int(line.split()[1]))
    return min(limits, default=None)


def free_space(folder: Path) -> int:
    """Return how many bytes can still be written to `folder`, or to the nearest folder above it that is there."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")  # of version 2 and 1; without a limit "max", or about 2**63


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs that each control group of this process is limited to."""
    for folder in _control_groups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))  # -1: no limit
        if quota.isdecimal() and int(period or 0):
            yield int(quota) / int(period)


def _limits(folder: Path, *names: str) -> Iterator[str]:
    yield from (text for text in (_read(folder / name) for name in names) if text.isdecimal())


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, of version 2 and 1, and of those around them.

    In a container /proc may tell the path outside of it, while /sys shows the container's as the uppermost.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in dict.fromkeys((controllers, controller)) if controllers else ("", "unified"):
            inner = Path(path.lstrip("/"))
            yield from (mounts / mount / group for group in (inner, *inner.parents) if ".." not in group.parts)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def collect_garbage_rarely() -> None:
    """Look for garbage after 50,000 new objects, not 700: what is imported is none, and there is a lot of it."""
    gc.set_threshold(50_000)


def ignore_matplotlib_settings() -> None:
    """Have matplotlib, if it is imported later, draw the same figures whatever a notebook or a matplotlibrc asks for.

    Notebooks set MPLBACKEND to a module that need not be installed here, which ends every import of matplotlib.
    """
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    if Path("matplotlibrc").exists():  # in the working folder, it comes before the variable
        import matplotlib

        matplotlib.rcdefaults()
