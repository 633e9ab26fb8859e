"""What predictions were made of, written beside them: results of another input are never replaced."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nuclei.errors import InputError

LARGEST = 2**20  # bytes


def write_record(
    path: Path, source: Path, nuclei: Path | None, models: Iterable[Path], settings: dict[str, Any]
) -> None:
    """Write as JSON what a run read, and how.

    Args:
        path: Of the record.
        source: The input: a crop, a folder or zip of crops, a tile or a slide.
        nuclei: The file of its nuclei; None: of crops.
        models: Checkpoints, told by name and SHA-256.
        settings: What else made the results.
    """
    record = {
        "input": str(source.resolve()),
        "nuclei": str(nuclei.resolve()) if nuclei else None,
        "models": [{"name": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()} for model in models],
        **settings,
        "version": version("nuclei"),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def require_different_names(paths: Iterable[Path]) -> None:
    """Look whether names of results differ by more than case or Unicode form, which many a disk does not tell apart.

    Args:
        paths: Of all results of a run.

    Raises:
        InputError: Two do not.
    """
    seen = set()
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100 of what does not exist yet
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", absolute).casefold())
        if folded in seen:
            raise InputError(f"{path}: two results would have this name: run them with an --out each")
        seen.add(folded)


def require_results_of(paths: Sequence[Path], source: Path) -> None:
    """Look whether results may be replaced: those that exist have to be known as earlier ones of the same input.

    Args:
        paths: Of the results; the last one is their record.
        source: The input.

    Raises:
        InputError: They are not.
    """
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if not existing:
        return
    earlier = _read_input(paths[-1])
    if earlier is None:
        raise InputError(f"{existing[0]}: exists, of another program or version: move it, or give another --out")
    if earlier != str(source.resolve()):
        raise InputError(f"{existing[0]}: exists, and is of {earlier}: give another --out")


def _read_input(path: Path) -> str | None:
    """Return the input that a record tells, None where it tells none."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        name = json.loads(path.read_text(encoding="utf-8"))["input"]
        return name if isinstance(name, str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
