"""Files that are whole or not there: everything is written to a temporary name, then renamed."""

import errno
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any error."""
    with _beside(path) as temporary:
        try:
            yield temporary
            temporary.replace(path)
        finally:
            with suppress(OSError):  # what went wrong before says more
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; put it in the place of `path` on success, remove it on any error."""
    with _beside(path) as temporary:
        try:
            temporary.mkdir()
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; an OSError about it speaks of `path`, which the user knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays the real one: NumPy, pandas and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove_leftovers(path)
    try:
        yield temporary
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            error.filename = str(path)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders of runs that were killed while they wrote `path`."""
    names = re.compile(rf"\.{re.escape(path.stem)}\.\d+\.tmp{re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        if names.fullmatch(other.name):
            with suppress(OSError):
                shutil.rmtree(other) if other.is_dir() else other.unlink()


def require_file(path: Path) -> None:
    """Raise OSError unless `path` is a plain file: reading a pipe or a device may never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a plain file", str(path))


class BoundedFile(io.FileIO):
    """A file read in pieces of at most `most` bytes: zipfile takes a zip's list of members, of any length, in one."""

    def __init__(self, path: Path, most: int):
        super().__init__(path)
        self.most = most

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.most:
            raise OSError(errno.EFBIG, "too many members", str(self.name))
        return super().read(size)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; its line ends stay as they are."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write `value` with keys in their order, floats with six significant digits, NaN refused (ValueError)."""
    write_text(path, json.dumps(_short(value), indent=2, allow_nan=False) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(some) for key, some in value.items()}
    if isinstance(value, list | tuple):
        return [_short(some) for some in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats with six significant digits, lines end with LF."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


NAMES = ("Filename", "First", "Second", "Group")  # columns that are text, whatever they look like


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; NAMES stay text (0010, NA), and what is empty is ""."""
    return pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False)
