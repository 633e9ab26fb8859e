"""Zips of crops, checked before anything is read of them."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pandas as pd
from PIL import Image

from nuclei.data.tables import CONTROL
from nuclei.errors import InputError, and_others, show
from nuclei.files import BoundedFile, require_file

LARGEST_MEMBER = 2**23  # bytes: the largest crop takes half of it without any compression
LARGEST_DIRECTORY = 2**26  # bytes: as many members
# What zipfile and Pillow raise for bytes that are not as they should be.
BROKEN = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, SyntaxError),
    *(struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)


@contextmanager
def open_members(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Open a zip of crops, give their names and what returns the content of one; checks as `unpack` does."""
    with open_zip(path) as archive:
        members = _index(archive)
        yield list(members), lambda name: read_member(archive, members[name])


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose directory is of a sensible size. Raises InputError where it is none, or damaged."""
    with ExitStack() as stack:
        try:
            require_file(path)
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(BoundedFile(path, LARGEST_DIRECTORY))))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}): put a zip of PNG crops there") from None
        except BROKEN:
            raise InputError(f"{path}: not a whole zip file: copy or download it again") from None
        yield archive


def match(archive: zipfile.ZipFile, table: pd.DataFrame, source: Path) -> list[zipfile.ZipInfo]:
    """Return the member of each row of `table`, which `source` held; each must have one, and each member a row."""
    members = _index(archive)
    without_crop = table[~table["Filename"].isin(members.keys())]
    if len(without_crop):
        raise InputError(
            f"{source}, line {without_crop.index[0]}: {show(without_crop['Filename'].iloc[0])} is not in "
            f"{archive.filename}{and_others(without_crop)}: add the crop or remove the row"
        )
    without_row = sorted(members.keys() - set(table["Filename"]))
    if without_row:
        raise InputError(
            f"{archive.filename}, member {show(members[without_row[0]].orig_filename)}: no row in {source}"
            f"{and_others(without_row)}: add the row or remove the crop"
        )
    return [members[name] for name in table["Filename"]]


def is_clutter(name: str) -> bool:
    """Whether a member is one that macOS or Windows add unasked."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last.lower() in (".ds_store", "thumbs.db", "desktop.ini")


def _index(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by the last part of their name: they may sit in a folder. Nothing is read yet."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename  # `filename` is cut at a NUL
        where = f"{archive.filename}, member {show(name)}"
        parts = name.split("/")
        if is_clutter(name):
            continue
        if re.search(rf"[\\{CONTROL}]", name) or name.startswith("/") or ".." in parts or ":" in parts[0]:
            raise InputError(f"{where}: expected a plain relative name: zip the crops again")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{where}: a symbolic link, expected a PNG: zip the crops themselves")
        if not parts[-1]:
            continue  # a folder
        if info.flag_bits & 1:
            raise InputError(f"{where}: encrypted: zip the crops again without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{where}: compressed by method {info.compress_type}: zip the crops again with deflate")
        if info.file_size > LARGEST_MEMBER:
            raise InputError(
                f"{where}: {info.file_size:,} bytes, more than a crop can have (at most {LARGEST_MEMBER:,}): remove it"
            )
        if parts[-1] in members:
            raise InputError(f"{where}: there is another {show(parts[-1])}: keep one")
        members[parts[-1]] = info
    in_order = sorted(members.values(), key=lambda info: info.header_offset)
    for first, second in pairwise(in_order):
        if first.header_offset + first.compress_size > second.header_offset:
            where = f"{archive.filename}, member {show(first.orig_filename)}"
            raise InputError(f"{where}: shares its bytes with {show(second.orig_filename)}: zip the crops again")
    return members


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return what is in a member. Raises InputError where it is damaged."""
    try:
        with archive.open(info) as member:
            return member.read(info.file_size + 1)  # no more than it says, whatever there is
    except BROKEN:
        where = f"{archive.filename}, member {show(info.orig_filename)}"
        raise InputError(f"{where}: damaged: copy or download the zip again") from None
