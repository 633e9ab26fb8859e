"""PanNuke: 256x256 tiles of 19 tissues at 40x in three zips, fold_1.zip to fold_3.zip.

Gamper et al. 2020, "PanNuke dataset extension, insights and baselines", arXiv:2003.10778. A zip holds images.npy,
float64 (N, 256, 256, 3); masks.npy, float64 (N, 256, 256, 6): a plane a class, in which every nucleus has its own
number; types.npy: the name of each tile's tissue. Classes in the order of the README in the zips: neoplastic,
inflammatory, connective or soft tissue, dead, epithelial, background. Patients are not told.
"""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import numpy as np
import pandas as pd
from scipy import ndimage

from nuclei.data.public.common import (
    LARGEST_TABLE,
    Member,
    content,
    find,
    number_classes,
    open_zips,
    within,
    write_crops,
)
from nuclei.data.zips import BROKEN
from nuclei.errors import InputError
from nuclei.task import MPP

NAMES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")  # by plane
PLANES = 6
LARGEST_TILE = 2048  # pixels a side: PanNuke's have 256


def import_pannuke(archives: Sequence[Path], out: Path, seed: int, tissue: str) -> pd.DataFrame:
    """Write the competition's four files, and groups.csv with the tile of each crop; return the table of the crops.

    tissue: Colon, or another one as types.npy names it. The arrays, gigabytes each, are read tile by tile.
    Raises InputError.
    """
    with open_zips(archives) as zips:
        tissues = {archive.filename: _read_types(_member(archive, "types.npy")) for archive in zips}
        known = sorted(set(np.concatenate(list(tissues.values()))))
        if tissue not in known:
            raise InputError(
                f"{', '.join(map(str, archives))}: no tile of {tissue!a}, expected one of "
                f"{', '.join(known)}: see --tissue"
            )
        nuclei = [
            _find_nuclei(name, mask)
            for archive in zips
            for name, mask in _tiles(archive, "masks.npy", PLANES, tissues[archive.filename] == tissue)
        ]
        tiles = (
            (name, np.rint(pixels).clip(0, 255).astype(np.uint8))
            for archive in zips
            for name, pixels in _tiles(archive, "images.npy", 3, tissues[archive.filename] == tissue)
        )
        numbered, classes = number_classes(pd.concat(nuclei, ignore_index=True), NAMES)
        return write_crops(out, numbered, tiles, MPP, seed, classes)


def _member(archive: ZipFile, name: str) -> Member:
    for member in find([archive], name.replace(".", "[.]")).values():
        return member
    raise InputError(f"{archive.filename}: no {name} in it: expected a fold of PanNuke")


def _read_types(member: Member) -> np.ndarray:
    try:
        data = content(member, LARGEST_TABLE)
        with io.BytesIO(data) as file:
            shape, _, dtype = _read_header(file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
                raise ValueError
        types = np.load(io.BytesIO(data), allow_pickle=False)
        if types.ndim != 1 or types.dtype.kind != "U":
            raise ValueError
    except (KeyError, TypeError, EOFError, *BROKEN):
        raise InputError(f"{member}: expected an array of names: download the zip again") from None
    return types


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the order is Fortran's, and dtype of an .npy. Raises KeyError or what NumPy raises."""
    major, _ = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
    return read(file)


def _tiles(archive: ZipFile, name: str, channels: int, wanted: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the wanted tiles of an array, float (H, W, channels), with their names; one tile at a time is held."""
    member = _member(archive, name)
    try:
        with member.archive.open(member.info) as file:
            shape, is_fortran, dtype = _read_header(file)
            if (
                is_fortran
                or dtype.kind not in "fiu"
                or len(shape) != 4
                or shape[::3] != (len(wanted), channels)
                or not 0 < min(shape[1:3]) <= max(shape[1:3]) <= LARGEST_TILE
            ):
                raise ValueError(f"it holds {dtype} {shape}")
            size = int(np.prod(shape[1:])) * dtype.itemsize
            for number, chosen in enumerate(wanted):
                tile = file.read(size)
                if len(tile) != size:
                    raise ValueError("it ends early")
                if chosen:
                    yield f"{Path(str(archive.filename)).stem}_{number}", np.frombuffer(tile, dtype).reshape(shape[1:])
    except (KeyError, TypeError, *BROKEN) as error:
        expected = f"{len(wanted)} tiles of {channels} channels in C order"
        raise InputError(f"{member}: expected {expected} ({str(error)[:100]}): download the zip again") from None


def _find_nuclei(tile: str, mask: np.ndarray) -> pd.DataFrame:
    parts = []
    for plane, name in enumerate(NAMES):
        nucleus = mask[..., plane].astype(np.int32)
        ids = np.unique(nucleus[nucleus > 0])
        y, x = np.rint(ndimage.center_of_mass(nucleus > 0, nucleus, ids)).astype(int).reshape(-1, 2).T
        nuclei = pd.DataFrame({"tile": tile, "y": y, "x": x, "kind": name, "group": tile})
        parts.append(nuclei[within(y, x, nucleus.shape[0], nucleus.shape[1], MPP)])
    return pd.concat(parts)
