"""Crops as people keep them: a file, a folder of files, a zip of files."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nuclei.data.cut import cut, window
from nuclei.data.images import SUFFIXES, decode_with_resolution, open_image, require_crop, require_utf8
from nuclei.data.resolution import Resolution
from nuclei.data.zips import open_members
from nuclei.errors import InputError, warn
from nuclei.files import require_file
from nuclei.task import COLON, Task

LARGER = 2  # times the side of a crop, in both directions: no crop, but a tile or slide


def is_larger_than_a_crop(path: Path, task: Task, mpp: float | None) -> bool:
    """Tell whether a file is a tile or slide: an image of at least two crops a side. Folders and zips hold crops.

    Args:
        path: Of the input.
        task: Says how many microns a crop spans.
        mpp: Microns per pixel; None: what the image tells, or else the task's.

    Raises:
        InputError: It is an image that cannot be read.
    """
    if not path.is_file() or _is_zip(path):
        return False
    with open_image(path) as image:
        least = LARGER * window(mpp or image.mpp or task.mpp, task)
        return min(image.height, image.width) >= least


@contextmanager
def open_crop_files(
    path: Path, task: Task = COLON, mpp: float | None = None
) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """Open PNG, JPEG and TIFF crops.

    Args:
        path: One crop, a folder of crops (those in its folders are not looked at) or a zip of crops (these are).
        task: Says how many microns a crop spans, and to how many pixels it is brought.
        mpp: Microns per pixel of the crops; None: what each tells, or else the task's, of which a warning tells in the
            end.

    Yields:
        The names of the crops, and what returns one of them by its name, uint8 (side, side, 3).

    Raises:
        InputError: Of a crop in a folder or zip when it is read; of a name that no table can hold at once.
    """
    guesses: Counter[str] = Counter()

    def check(height: int, width: int, resolution: Resolution, where: str) -> float:
        """Return the pixels that the crop spans."""
        told = resolution.mpp
        side = window(mpp or told or task.mpp, task)
        if (height, width) != (round(side), round(side)):
            at = f" at the {told:.3g} microns per pixel that it tells" if told and not mpp else ""
            raise InputError(
                f"{where}: {width}x{height} pixels, expected {round(side)}x{round(side)} for a crop{at}: cut it to "
                "that size, or name the file of its nuclei with --nuclei where it is a tile or slide"
            )
        if not mpp and not told:
            guesses[f"not told: taken for {task.mpp:g}"] += 1
        elif not mpp and resolution.source.startswith("an objective"):
            guesses[f"told by {resolution.source} alone: taken for {told:.3g}"] += 1
        return side

    def crop(file: Path | io.BytesIO, where: str) -> np.ndarray:
        pixels, resolution = decode_with_resolution(file, where)
        height, width = pixels.shape[:2]
        span = check(height, width, resolution, where)
        return cut(pixels, height / 2, width / 2, span, task.side)

    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir()]
        names = sorted(file.name for file in files if not file.name.startswith("."))  # ._1.png is by macOS
        for name in names:
            require_crop(path / name)
        yield _checked(names, path), lambda name: crop(path / name, str(path / name))
        _warn(path, guesses)
        return
    try:
        require_file(path)
    except OSError as error:
        expected = "a crop, a folder or a zip of crops, or a tile or slide"
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected {expected}") from None
    if _is_zip(path):
        with open_members(path) as (members, read):
            names = [name for name in members if Path(name).suffix.lower() in SUFFIXES]
            yield _checked(names, path), lambda name: crop(io.BytesIO(read(name)), f"{path}, member {name!a}")
    else:
        with open_image(path) as image:  # it may be a whole slide, which must not be decoded to be refused
            span = check(image.height, image.width, Resolution(image.mpp, image.mpp_source), str(path))
            pixels = image.read(0, 0, image.height, image.width)
        yield _checked([path.name], path), lambda name: cut(pixels, image.height / 2, image.width / 2, span, task.side)
    _warn(path, guesses)


def _is_zip(path: Path) -> bool:
    """Whether a file is meant to be a zip, whole or not; pictures may have anything behind their last byte."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" or path.suffix.lower() == ".zip"


def _warn(path: Path, guesses: Counter[str]) -> None:
    for guess, count in guesses.items():
        warn(f"{path}: resolution of {count:,} crop{'s' * (count > 1)} {guess} microns per pixel; see --mpp")


def _checked(names: list[str], path: Path) -> list[str]:
    """Return the names. Raises InputError where there are none, or one is not UTF-8."""
    if not names:
        raise InputError(f"{path}: no crop in it: expected files that end with {', '.join(SUFFIXES)}")
    for name in names:
        require_utf8(name, str(path))
    return names
