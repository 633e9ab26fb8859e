"""What the machine can do: the best rates of convolutions and matrix products, and of copying memory."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Job, Way
from benchmarks.setting import Setting
from nuclei.device import choose_device

SECONDS, SMALL_SECONDS = 0.5, 0.1  # a rate
# Channels, pixels a side, of 3x3 convolutions in ResNet18; without padding, so that no product is by a known zero.
CONVOLUTIONS = [(64, 27), (128, 15), (256, 9), (512, 6)]

BestSeconds = Callable[[Callable[[], Tensor]], float]


def ceiling(setting: Setting) -> Job:
    """Measure everything; the figures are in the notes: FLOP/s and bytes/s (read and written)."""
    device = choose_device(setting.device, setting.threads)
    best_seconds = partial(_best_seconds, device=device, seconds=SMALL_SECONDS if setting.small else SECONDS)
    notes = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        notes[f"convolution {name}"] = max(_convolution(*shape, dtype, device, best_seconds) for shape in CONVOLUTIONS)
        notes[f"matrix {name}"] = _matrix(2048, dtype, device, best_seconds)
    notes["memory"] = _memory(2**26, device, best_seconds)
    return Job(lambda: 1, notes=notes)


def _convolution(
    channels: int, side: int, dtype: torch.dtype, device: torch.device, best_seconds: BestSeconds, batch: int = 64
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


WAYS: dict[str, Way] = {"ceiling": ceiling}
