"""Tensors on disk: safetensors out and in; torch.save's format in, without running any code that a file may hold."""

import errno
import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nuclei.files import BoundedFile, atomic_write, require_file

LARGEST_FILE = 2**28  # bytes, unpacked: ResNet18 has 47 million in float32
LARGEST_HEADER = 2**20  # bytes of a safetensors file, or of a pickle: all that is not tensors
MOST_STEPS = 2**18  # of a pickle: ResNet18 takes some 10,000


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, byte-identical on a rerun.

    Args:
        path: Of the file.
        tensors: By name, contiguous and on the CPU.
        metadata: One entry at most: safetensors writes several in any order.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # safetensors' own writing hides what the disk says


@contextmanager
def open_tensors(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file of moderate size.

    Raises:
        OSError: It cannot be read, or is larger than LARGEST_FILE.
        SafetensorError: It is no such file; also raised while it is read.
    """
    _require_moderate(path)
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise SafetensorError(f"no header of a reasonable size: larger than {LARGEST_HEADER // 2**20} MiB")
    with safe_open(path, framework="pt") as tensors:
        yield tensors


def load_plain(path: Path) -> Any:
    """Read what torch.save wrote, on the CPU.

    Returns:
        Tensors and plain containers.

    Raises:
        Exception: Of any class, whatever is wrong with the file.
    """
    _require_moderate(path)
    if zipfile.is_zipfile(path):  # its members may be compressed
        with BoundedFile(path, LARGEST_HEADER) as bounded, zipfile.ZipFile(bounded) as archive:
            members = archive.infolist()
        if sum(info.file_size for info in members) > LARGEST_FILE:
            raise ValueError(f"unpacks to more than {LARGEST_FILE // 2**20} MiB")
        if any(info.file_size > LARGEST_HEADER for info in members if info.filename.endswith(".pkl")):
            raise ValueError(f"a pickle larger than {LARGEST_HEADER // 2**20} MiB")
    with _Steps(path) as steps, warnings.catch_warnings(action="ignore"):
        return torch.load(steps, map_location="cpu", weights_only=True)


def _require_moderate(path: Path) -> None:
    require_file(path)
    if path.stat().st_size > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"larger than {LARGEST_FILE // 2**20} MiB", str(path))


class _Steps(io.FileIO):
    """A file for MOST_STEPS reads: torch.load reads once for each step of a pickle, which may make an object."""

    steps = 0

    def read(self, size: int | None = -1) -> bytes:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise ValueError(f"a pickle of more than {MOST_STEPS:,} steps")
        return super().read(size)
