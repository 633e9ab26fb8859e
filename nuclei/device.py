"""Where and how numbers are computed: device, threads, precision, determinism."""

import ctypes
import os
import platform
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import torch

from nuclei.errors import InputError

# Of glibc's mallopt: bytes from which memory is mapped, and from which freed memory goes back to the system.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1


@dataclass(frozen=True)
class Compute:
    """What one process computes with.

    Attributes:
        device: auto, cpu, cuda or mps, as in `setup_device`.
        threads: CPU threads.
    """

    device: str
    threads: int


def setup_device(name: str, threads: int) -> torch.device:
    """Choose a device and make its results repeatable; this holds for the whole process.

    It sets the number of threads, the workspace of cuBLAS (an environment variable), deterministic algorithms on cuda,
    and that freed memory is kept. Sums are taken in an order that depends on the number of threads, so the same bytes
    need the same `threads`.

    Args:
        name: cpu, cuda, mps, or auto: cuda, else mps, else cpu.
        threads: CPU threads, 1 or more.

    Raises:
        InputError: The device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available[name]:
        raise InputError(f"device: {name} is not available on this machine: use auto or cpu")
    torch.set_num_threads(threads)
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with this
    # CPU kernels are repeatable without deterministic algorithms, and twice as fast; asking for these costs four
    # seconds of imports.
    if torch.are_deterministic_algorithms_enabled() != (name == "cuda"):
        torch.use_deterministic_algorithms(name == "cuda")
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors, which it would else map and fault in anew for each one."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)  # other libraries have none
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return a context that computes convolutions and matrix products in bfloat16 where it is asked for.

    Args:
        device: What computes.
        precision: float32, bfloat16, or auto: bfloat16 where the processor has instructions for it, as it is slower
            elsewhere.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, precision))


def uses_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether `autocast` computes in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def describe_environment(compute: Compute, precision: str) -> dict[str, Any]:
    """Name the kind of processor, the device, and the versions of Python and of every package that this one asks for.

    Args:
        compute: What was computed with.
        precision: As in `autocast`; the one that it comes to is named.
    """
    device = setup_device(compute.device, compute.threads)
    pinned = (line for line in requires("nuclei") or () if "extra ==" not in line)
    names = sorted(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in pinned)
    return {
        "system": f"{platform.system()}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": compute.threads,
        "precision": "bfloat16" if uses_bfloat16(device, precision) else "float32",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names} | {"torch": str(torch.__version__)},  # CPU or CUDA
    }


def compare_systems(earlier: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say why results differ from earlier ones of another kind of processor.

    Args:
        earlier: What `describe_environment` said of the earlier results; may be anything that JSON holds.
        now: What it says of the new ones.

    Returns:
        The line; None where both are of the same kind.
    """
    keys = ("system", "device", "precision")
    before, after = (", ".join(str(values.get(key)) for key in keys) for values in (earlier, now))
    if before == after:
        return None
    return (
        f"the earlier networks were trained on {before}, these on {after}: other kinds of processor round otherwise, "
        "so networks and all that comes from them differ a little, and git status shows their reports as changed"
    )


def processor() -> str:
    """Name the processor of this machine; Linux alone tells, but Python does not ask it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
