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
    """Write `tensors`, contiguous and on the CPU. Byte-identical on a rerun if `metadata` has one entry at most."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # safetensors' own writing hides what the disk says


@contextmanager
def open_tensors(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file of moderate size. Raises OSError or SafetensorError, while it is read too."""
    _require_moderate(path)
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise SafetensorError("no header of a reasonable size")
    with safe_open(path, framework="pt") as tensors:
        yield tensors


def load_plain(path: Path) -> Any:
    """Read what torch.save wrote, on the CPU: tensors and plain containers. Whatever is wrong, it raises something."""
    _require_moderate(path)
    if zipfile.is_zipfile(path):  # its members may be compressed
        with BoundedFile(path, LARGEST_HEADER) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if sum(info.file_size for info in members) > LARGEST_FILE:
            raise ValueError("unpacks to more than a file may have")
        if any(info.file_size > LARGEST_HEADER for info in members if info.filename.endswith(".pkl")):
            raise ValueError("an endless pickle")
    with _Steps(path) as file, warnings.catch_warnings(action="ignore"):
        return torch.load(file, map_location="cpu", weights_only=True)


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
            raise ValueError("an endless pickle")
        return super().read(size)
