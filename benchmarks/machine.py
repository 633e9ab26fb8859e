"""The machine: what it is, and what it can do (the best rates of convolutions, matrix products and copying memory)."""

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Implementation, Workload
from benchmarks.workspace import Workspace
from nuclei.device import processor, setup_device

SECONDS = 0.5  # a rate
# Channels, pixels a side, of 3x3 convolutions in ResNet18; without padding, so that no product is by a known zero.
CONVOLUTIONS = [(64, 27), (128, 15), (256, 9), (512, 6)]

BestSeconds = Callable[[Callable[[], Tensor]], float]


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Return what the figures depend on: processor, device, threads of the CPU, system, versions."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "bfloat16": [name for name, there in torch.cpu.get_capabilities().items() if "bf16" in name and there],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "captum", "ray", "pillow", "numpy")},
    }


def ceiling(workspace: Workspace) -> Workload:
    """Measure everything; the figures are in the notes: FLOP/s and bytes/s (read and written)."""
    device = setup_device(workspace.device, workspace.threads)
    less = 8 if workspace.small else 1  # of each, where a first look is enough
    best_seconds = partial(_best_seconds, device=device, seconds=SECONDS / less)
    notes = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        notes[f"convolution {name}"] = max(
            _convolution(64 // less, *shape, dtype, device, best_seconds) for shape in CONVOLUTIONS
        )
        notes[f"matrix {name}"] = _matrix(2048 // less, dtype, device, best_seconds)
    notes["memory"] = _memory(2**26 // less, device, best_seconds)
    return Workload(lambda: 1, notes=notes)


def _convolution(
    batch: int, channels: int, side: int, dtype: torch.dtype, device: torch.device, best_seconds: BestSeconds
) -> float:
    inputs = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    inputs, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (inputs, weight))
    flop = 2 * batch * channels * channels * 9 * (side - 2) ** 2
    return flop / best_seconds(partial(torch.conv2d, inputs, weight))


def _matrix(size: int, dtype: torch.dtype, device: torch.device, best_seconds: BestSeconds) -> float:
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / best_seconds(lambda: a @ b)


def _memory(size: int, device: torch.device, best_seconds: BestSeconds) -> float:
    source, target = torch.ones(2, size, device=device)
    return 2 * 4 * size / best_seconds(lambda: target.copy_(source))


@torch.inference_mode()
def _best_seconds(compute: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


IMPLEMENTATIONS: dict[str, Implementation] = {"ceiling": ceiling}
