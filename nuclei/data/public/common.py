"""Zips as the authors ship them, and what all sets of nuclei have in common."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from nuclei.data.competition import competition_writer, numbers
from nuclei.data.cut import cut, window
from nuclei.data.images import decode
from nuclei.data.zips import BROKEN, LARGEST_DIRECTORY, is_clutter
from nuclei.errors import InputError
from nuclei.files import BoundedFile, require_file
from nuclei.task import CLASSES

TEST_SHARE = 0.4
LARGEST = 2**28  # bytes of an image
LARGEST_TABLE = 2**24  # bytes of a table
PIECE = 2**22  # bytes that are unpacked at once


class Member(NamedTuple):
    """A file in a zip."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def __str__(self) -> str:
        return f"{self.archive.filename}, member {self.info.filename!a}"


@contextmanager
def open_zips(paths: Sequence[Path]) -> Iterator[list[zipfile.ZipFile]]:
    """Open zips of different names. Raises InputError."""
    with ExitStack() as stack:
        archives = []
        for path in paths:
            if [other.name for other in paths].count(path.name) > 1:
                raise InputError(f"{path}: there is another {path.name}: give each once")
            try:
                require_file(path)
                file = stack.enter_context(BoundedFile(path, LARGEST_DIRECTORY))
                archives.append(stack.enter_context(zipfile.ZipFile(file)))
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}): give the zip as downloaded") from None
            except BROKEN:
                raise InputError(f"{path}: not a whole zip file: download it again") from None
        yield archives


def find(archives: Iterable[zipfile.ZipFile], pattern: str) -> dict[str, Member]:
    """Return the members whose path ends with `pattern`, in the order of their stems, by these.

    pattern: a regular expression that matches the last parts of the path in any case, `Images/[^/]+[.]png` say
    Raises InputError where two have the same stem.
    """
    members: dict[str, Member] = {}
    for archive in archives:
        for info in archive.infolist():
            if is_clutter(info.filename) or not re.fullmatch(f"(.*/)?{pattern}", info.filename, re.IGNORECASE):
                continue
            member, stem = Member(archive, info), Path(info.filename).stem
            if stem in members:
                raise InputError(f"{member}: there is another one, {members[stem]}: give each set once")
            members[stem] = member
    return dict(sorted(members.items()))


def content(member: Member, most: int = LARGEST) -> bytes:
    """Return what is in a member of at most `most` bytes, whatever size the zip claims. Raises InputError."""
    if member.info.file_size > most:
        raise InputError(f"{member}: larger than {most // 2**20} MiB: not what the authors shipped")
    try:
        with member.archive.open(member.info) as file:
            return b"".join(iter(lambda: file.read(PIECE), b""))
    except BROKEN:
        raise InputError(f"{member}: damaged: download the zip again") from None


def decode_all(images: dict[str, Member]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each image's name and its pixels, RGB, uint8 (H, W, 3). Raises InputError."""
    for name, member in images.items():
        yield name, decode(io.BytesIO(content(member)), str(member))


def within(y: np.ndarray, x: np.ndarray, height: int, width: int, mpp: float) -> np.ndarray:
    """Tell which nuclei are at least half a crop from the border of their tile: bool (N,)."""
    half = window(mpp) / 2
    return (y >= half) & (y <= height - half) & (x >= half) & (x <= width - half)


def number_classes(nuclei: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Turn the column kind into label, the number of the class, and return the classes.

    Those of `names` that have two nuclei or more are classes, in their order; all other nuclei are left out.
    """
    counts = nuclei.kind.value_counts()
    classes = tuple(name for name in names if counts.get(name, 0) >= 2)
    chosen = nuclei[nuclei.kind.isin(classes)].reset_index(drop=True)
    return chosen.assign(label=chosen.kind.map(classes.index)).drop(columns="kind"), classes


def write_crops(
    out: Path,
    nuclei: pd.DataFrame,
    tiles: Iterable[tuple[str, np.ndarray]],
    mpp: float,
    seed: int,
    classes: Sequence[str] = CLASSES,
) -> pd.DataFrame:
    """Cut a crop around each nucleus, split them as the competition did and write its files and groups.csv.

    nuclei: tile, y, x (pixels), label, group and, where the authors split the tiles, role; tiles: each with its name,
    RGB, uint8 (H, W, 3), once; mpp: of the tiles; classes: names by label
    Without a role: 60 % for training and 40 % for test, drawn by class. Names say nothing of class or tile; labels are
    numbers where the classes are the competition's, else names. Returns the table of the crops: the columns of
    `nuclei`, role, number and the name of its class. Raises InputError where a class has fewer than two nuclei.
    """
    counts = np.bincount(nuclei.label, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < 2:
            raise InputError(
                f"{count} nuclei of class {name} at least half a crop from a border, expected two or more: give all "
                "archives of the set"
            )
    if "role" in nuclei:
        order = np.random.default_rng(seed).permutation(len(nuclei))
        parts = [order[nuclei.role.to_numpy()[order] == role] for role in ("train", "test")]
    else:
        parts = train_test_split(np.arange(len(nuclei)), test_size=TEST_SHARE, stratify=nuclei.label, random_state=seed)
    table = pd.concat(
        nuclei.iloc[rows].assign(role=role, number=named)
        for rows, role, named in zip(parts, ("train", "test"), numbers(*map(len, parts)), strict=True)
    )
    by_tile = dict(iter(table.groupby("tile")))
    side = window(mpp)
    table["name"] = table.label.map(dict(enumerate(classes)))
    written = table if tuple(classes) == CLASSES else table.assign(label=table.name)
    with competition_writer(out, written) as add, tqdm(total=len(table), unit="crop", disable=None) as bar:
        for tile, pixels in tiles:
            for row in by_tile.get(tile, table[:0]).itertuples():
                add(row.role, row.number, cut(pixels, row.y, row.x, side))
                bar.update()
    return table
