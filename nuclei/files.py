"""Files that are whole or not there: everything is written to a temporary name, then renamed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays the real one: NumPy, pandas and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; put it in the place of `path` on success, remove it on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o755)  # mkdtemp makes it private to its owner
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` with keys in their order, floats with six significant digits, NaN refused (ValueError)."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_short(value), indent=2, allow_nan=False) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(some) for key, some in value.items()}
    if isinstance(value, list | tuple):
        return [_short(some) for some in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats with six significant digits, lines end with LF."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; Filename and Group stay text, whatever they look like (0010, NA)."""
    return pd.read_csv(path, dtype={"Filename": str, "Group": str}, keep_default_na=False)
