"""What numbers were computed with, as far as one machine always says the same."""

import platform
import re
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import torch

from nuclei.device import uses_bfloat16


def describe_environment(device: torch.device, threads: int, precision: str) -> dict[str, Any]:
    """Name the kind of processor, the device, and the versions of Python and of every package that this one asks for.

    precision: as in `autocast`; the one that it comes to is named
    """
    names = sorted(re.match(r"[\w.-]+", line)[0] for line in requires("nuclei") or () if "extra ==" not in line)
    return {
        "system": f"{platform.system()}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads,
        "precision": "bfloat16" if uses_bfloat16(device, precision) else "float32",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names} | {"torch": str(torch.__version__)},  # CPU or CUDA
    }


def processor() -> str:
    """Name the processor of this machine; Linux alone tells, but Python does not ask it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
