"""What predictions were made of, written beside them: results of another input are never replaced, complete ones kept.

A run that was interrupted goes on: what its record, and the files it tells of, prove to be done is not done again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nuclei.data.images import SUFFIXES
from nuclei.errors import InputError
from nuclei.files import require_file

LARGEST = 2**20  # bytes
BLOCKS, BLOCK = 256, 2**16  # that a fingerprint reads of a file: 16 MiB


def sources(
    source: Path, nuclei: Path | None, models: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what results are made of: the same sources, the same results.

    Args:
        source: The input: a crop, a folder or zip of crops, a tile or a slide.
        nuclei: The file of its nuclei; None: there is none.
        models: Of `describe_models`.
        asked: Settings of the command that make a difference.
    """
    return {
        "input": str(source.resolve()),
        "input_fingerprint": fingerprint(source),
        "nuclei": str(nuclei.resolve()) if nuclei else None,
        "nuclei_sha256": file_sha256(nuclei) if nuclei else None,
        "models": list(models),
        "asked": dict(asked),
        "version": version("nuclei"),
    }


def describe_models(models: Sequence[Path]) -> list[dict[str, Any]]:
    """Return name and SHA-256 of each checkpoint."""
    return [{"name": model.name, "sha256": file_sha256(model)} for model in models]


def fingerprint(path: Path) -> str | None:
    """Return what tells a file, or a folder of crops, from others, without reading slides of gigabytes.

    The SHA-256 of its size and of 256 blocks of 64 KiB spread over it: of all of it where it has 16 MiB at most. None
    where it cannot be read: what reads it next says why.
    """
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            size = file.stat().st_size
            digest.update(f"{file.name!r} {size} ".encode())
            with file.open("rb") as stream:
                for number in range(min(BLOCKS, -(-size // BLOCK))):
                    stream.seek(number * BLOCK if size <= BLOCKS * BLOCK else number * (size - BLOCK) // (BLOCKS - 1))
                    digest.update(stream.read(BLOCK))
    except OSError:
        return None
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """Return the files that count for an input: the crops of a folder; of MIRAX, the slide's folder, too."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    require_file(path)
    folder = path.with_suffix("")
    parts = folder.iterdir() if path.suffix.lower() == ".mrxs" and folder.is_dir() else ()
    return [path, *sorted(file for file in parts if file.is_file())]


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, hexadecimal; None where it cannot be read: what reads it next says why."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def write_record(path: Path, made_of: Mapping[str, Any], settings: Mapping[str, Any], results: Sequence[Path]) -> None:
    """Write as JSON what a run read, and how, and which files it wrote.

    Args:
        path: Of the record.
        made_of: Of `sources`.
        settings: What else is to be known of the results.
        results: They exist.
    """
    written = {result.name: fingerprint(result) for result in results}
    _write(path, {**made_of, **settings, "results": written})


def is_done(paths: Sequence[Path], made_of: Mapping[str, Any]) -> bool:
    """Whether results are complete, and made of the same.

    Args:
        paths: Of the results that there may be, the first one always; the last one is their record.
        made_of: Of `sources`.
    """
    record = _read(paths[-1])
    results = record.get("results")
    if any(record.get(name) != value for name, value in made_of.items()) or not isinstance(results, dict):
        return False
    written = {path.name: fingerprint(path) for path in paths[:-1] if path.name in results}
    return paths[0].name in results and results == written and None not in results.values()


@contextmanager
def claim(paths: Sequence[Path], made_of: Mapping[str, Any]) -> Iterator[None]:
    """Tell, while results are made for the first time, whose they are: a killed run leaves files that may be replaced.

    On any error that is undone.

    Args:
        paths: Of the results; the last one is their record.
        made_of: Of `sources`.
    """
    record = paths[-1]
    if any(path.exists() for path in paths):
        yield
        return
    _write(record, {"input": made_of["input"]})
    try:
        yield
    except BaseException:
        record.unlink(missing_ok=True)
        raise


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
    earlier = _read(paths[-1]).get("input")
    if not isinstance(earlier, str):
        raise InputError(f"{existing[0]}: exists, of another program or version: move it, or give another --out")
    if earlier != str(source.resolve()):
        raise InputError(f"{existing[0]}: exists, and is of {earlier}: give another --out")


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """Return what a record holds, nothing where there is none."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return {}
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
