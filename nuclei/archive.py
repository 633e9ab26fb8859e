"""The four files of a competition, checked and decoded: zips of PNG crops and tables in, arrays and an index out."""

import csv
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nuclei.classes import CLASSES
from nuclei.errors import InputError
from nuclei.files import BoundedFile, atomic_directory, require_file, write_csv

SIDE = 100  # pixels a side of a crop
LARGEST_MEMBER = 2**20  # bytes: a crop without any compression takes 30,000
MOST_CROPS = 2**20  # a part
LARGEST_TABLE = 2**24  # bytes: as many rows
LARGEST_DIRECTORY = 2**26  # bytes: as many members
LONGEST_NAME = 255  # characters, as on a disk: names end up in titles and tables
DECODERS = 2  # threads; zlib runs outside of Python's lock
CROPS_A_TASK = 256

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
CONTROL = r"\x00-\x1f\x7f-\x9f"  # characters, for a regular expression
# What zipfile and Pillow raise for bytes that are not as they should be.
BROKEN = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, SyntaxError),
    *(struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)


class Decoded(NamedTuple):
    """What is known of the crops of one part: of each crop its digest; of all of them sums a channel, int64 (C,)."""

    digests: list[bytes]
    total: np.ndarray
    squares: np.ndarray


def unpack(raw: Path, out: Path, channels: int) -> dict[str, Any]:
    """Decode `raw`'s train.zip and test.zip into the folder `out`; return the data report.

    raw: holds train.zip, train.csv (Filename, Label), test.zip, example.csv (Filename); train.csv may have a column
    Group, or groups.csv (Filename, Group) may lie beside it: crops of one patient or slide share its value
    channels: 3 (RGB) or 1 (grey, ITU-R 601-2 luma)

    Writes train.npy and test.npy, uint8 (N, 100, 100, channels); train.csv with Filename, Label and, if given, Group;
    test.csv with Filename: rows in the order of train.csv and of example.csv. All of them or, on any error, none.
    Raises InputError for whatever is not as said above.
    """
    train = _read_training_table(raw)
    test = _read_table(raw / "example.csv", ("Filename",))
    report: dict[str, Any] = {}
    digests = {}
    with atomic_directory(out, replace=True) as folder:
        for part, table, source in (("train", train, "train.csv"), ("test", test, "example.csv")):
            with _open_zip(raw / f"{part}.zip") as archive:
                members = _match(archive, table, raw / source)
                shape = (len(members), SIDE, SIDE, channels)
                crops = _new_array(folder / f"{part}.npy", shape)
                decoded = _decode_all(archive, members, crops)
            crops.flush()
            write_csv(folder / f"{part}.csv", table)
            report[part] = _describe(decoded, channels)
            digests[part] = decoded.digests
    counts = train["Label"].value_counts()
    report["train"]["crops_a_class"] = {name: int(counts[str(label)]) for label, name in enumerate(CLASSES)}
    labels_a_crop = train.assign(digest=digests["train"]).groupby("digest")["Label"].nunique()
    report["same_crop_other_label"] = int((labels_a_crop > 1).sum())
    report["test_crops_in_train"] = sum(digest in labels_a_crop.index for digest in digests["test"])
    return report


@contextmanager
def open_members(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Open a zip of crops, give their names and what returns the content of one; checks as `unpack` does."""
    with _open_zip(path) as archive:
        members = _index(archive)
        yield list(members), lambda name: _content(archive, members[name])


def _read_training_table(raw: Path) -> pd.DataFrame:
    """Return Filename, Label and, where given, Group."""
    path = raw / "train.csv"
    table = _read_table(path, ("Filename", "Label"), optional=("Group",))
    allowed = [str(label) for label in range(len(CLASSES))]
    for line, label in table["Label"].items():
        if label not in allowed:
            raise InputError(f"{path}, line {line}: Label is {_show(label)}, expected one of {', '.join(allowed)}")
    for label, name in zip(allowed, CLASSES, strict=True):
        if not (table["Label"] == label).any():
            raise InputError(
                f"{path}: no crop of label {label} ({name}): add some, all of {', '.join(allowed)} are needed"
            )
    extra = raw / "groups.csv"
    if extra.exists() or extra.is_symlink():  # a dead link is no table to pass over
        if "Group" in table:
            raise InputError(f"{extra}: {path.name} has a column Group already: remove one of the two")
        groups = _read_table(extra, ("Filename", "Group")).set_index("Filename")["Group"]
        missing = table[~table["Filename"].isin(groups.index)]
        if len(missing):
            raise InputError(
                f"{extra}: no row for {_show(missing['Filename'].iloc[0])} of {path.name}{_and_others(missing)}: add it"
            )
        table["Group"] = table["Filename"].map(groups)
    return table


def _read_table(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return `columns` and those of `optional` that are there, all as text; the index is the line in the file."""
    expected = ",".join(columns)
    try:
        require_file(path)
        if path.stat().st_size > LARGEST_TABLE:
            raise InputError(f"{path}: larger than {LARGEST_TABLE // 2**20} MiB: a table of crops is expected there")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): put a table with {expected} there") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = ((reader.line_num, values) for values in reader if values)
        (_, header), *rows = list(islice(lines, MOST_CROPS + 2)) or [(1, [])]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}): check the quotes") from None
    for name in columns:
        if name not in header:
            raise InputError(
                f"{path}: no column {name}; expected the header {expected}, found {_show(','.join(header))}"
            )
    wanted = [name for name in columns + optional if name in header]
    for name in wanted:
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name} occurs {header.count(name)} times: keep one")
    if not rows:
        raise InputError(f"{path}: no rows below the header: add one for each crop")
    if len(rows) > MOST_CROPS:
        raise InputError(f"{path}: more than {MOST_CROPS:,} rows: hand in fewer crops at a time")
    for line, values in rows:
        if len(values) != len(header):
            raise InputError(f"{path}, line {line}: {len(values)} values, expected {len(header)} as in the header")
    places = [header.index(name) for name in wanted]
    values = [[values[place] for place in places] for _, values in rows]
    table = pd.DataFrame(values, index=[line for line, _ in rows], columns=pd.Index(wanted), dtype=object)
    for name in wanted:
        for line, value in table[name].items():
            if not value.strip() or re.search(f"[{CONTROL}]", value):
                raise InputError(f"{path}, line {line}: {name} is {_show(value)}, expected plain text: correct it")
            if len(value) > LONGEST_NAME:
                raise InputError(
                    f"{path}, line {line}: {name} is {_show(value)}, {len(value):,} characters, "
                    f"expected at most {LONGEST_NAME}: shorten it"
                )
    again = table[table["Filename"].duplicated()]
    if len(again):
        name = _show(again["Filename"].iloc[0])
        raise InputError(f"{path}, line {again.index[0]}: {name} occurs a second time: keep one row")
    return table


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            require_file(path)
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(BoundedFile(path, LARGEST_DIRECTORY))))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}): put a zip of PNG crops there") from None
        except BROKEN:
            raise InputError(f"{path}: not a whole zip file: copy or download it again") from None
        yield archive


def _match(archive: zipfile.ZipFile, table: pd.DataFrame, source: Path) -> list[zipfile.ZipInfo]:
    """Return the member of each row of `table`, which `source` held; each must have one, and each member a row."""
    members = _index(archive)
    without_crop = table[~table["Filename"].isin(members.keys())]
    if len(without_crop):
        raise InputError(
            f"{source}, line {without_crop.index[0]}: {_show(without_crop['Filename'].iloc[0])} is not in "
            f"{archive.filename}{_and_others(without_crop)}: add the crop or remove the row"
        )
    without_row = sorted(members.keys() - set(table["Filename"]))
    if without_row:
        raise InputError(
            f"{archive.filename}, member {_show(members[without_row[0]].orig_filename)}: no row in {source}"
            f"{_and_others(without_row)}: add the row or remove the crop"
        )
    return [members[name] for name in table["Filename"]]


def _index(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by the last part of their name: they may sit in a folder. Nothing is read yet."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename  # `filename` is cut at a NUL
        where = f"{archive.filename}, member {_show(name)}"
        parts = name.split("/")
        if parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
            continue  # macOS adds them unasked
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
            raise InputError(f"{where}: there is another {_show(parts[-1])}: keep one")
        members[parts[-1]] = info
    in_order = sorted(members.values(), key=lambda info: info.header_offset)
    for one, other in pairwise(in_order):
        if one.header_offset + one.compress_size > other.header_offset:
            where = f"{archive.filename}, member {_show(one.orig_filename)}"
            raise InputError(f"{where}: shares its bytes with {_show(other.orig_filename)}: zip the crops again")
    return members


def _new_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a memory map of a new .npy of uint8 zeros. Raises OSError where the disk has no room for it."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # on a full disk, writing to the map would kill the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _decode_all(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], crops: np.ndarray) -> Decoded:
    """Fill `crops`, uint8 (N, 100, 100, C), with the members' pixels."""

    def decode(start: int) -> Decoded:
        some = crops[start : start + CROPS_A_TASK]
        for crop, member in zip(some, members[start : start + CROPS_A_TASK], strict=True):
            crop[:] = _decode_one(archive, member, crops.shape[-1])
        lines = some.reshape(-1, SIDE * crops.shape[-1])  # ten times faster to sum than pixels of three values
        sums = (values.sum(axis=0, dtype=np.int64) for values in (lines, np.square(lines, dtype=np.uint16)))
        return Decoded(
            [hashlib.blake2b(crop, digest_size=16).digest() for crop in some],
            *(sum_.reshape(SIDE, -1).sum(axis=0) for sum_ in sums),
        )

    with ThreadPoolExecutor(DECODERS) as pool:
        digests, totals, squares = zip(*pool.map(decode, range(0, len(members), CROPS_A_TASK)), strict=True)
    return Decoded([digest for some in digests for digest in some], sum(totals), sum(squares))


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(LARGEST_MEMBER)  # no more, whatever size the zip claims
    except BROKEN:
        where = f"{archive.filename}, member {_show(info.orig_filename)}"
        raise InputError(f"{where}: damaged: copy or download the zip again") from None


def _decode_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, channels: int) -> np.ndarray:
    """Return uint8 (100, 100, channels). The header is judged before any pixel is decoded."""
    where = f"{archive.filename}, member {_show(info.orig_filename)}"
    content = _content(archive, info)
    if not content.startswith(PNG_START) or len(content) < 33:
        raise InputError(f"{where}: not a PNG: convert it")
    width, height, bits = struct.unpack(">IIB", content[16:25])
    if (width, height) != (SIDE, SIDE):
        raise InputError(f"{where}: {width}x{height} pixels, expected {SIDE}x{SIDE}: cut the crop to that size")
    if bits == 16:
        raise InputError(f"{where}: 16 bits a channel, expected 8: convert it (how to scale it is for you to say)")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE):  # a second header
                raise ValueError
            if image.is_animated:
                raise InputError(f"{where}: {image.n_frames} frames, expected one: save the one that counts")
            image.load()  # chunks behind the pixels count as well
            if image.mode == "P" and image.getextrema()[1] >= len(image.getpalette() or []) // 3:
                raise ValueError  # colours that the palette lacks
            last = image.crop((0, SIDE - 1, SIDE, SIDE))
            if not last.getbbox(alpha_only=False) and not _has_all_rows(content):  # Pillow leaves what is missing at 0
                raise ValueError
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                if image.getchannel("A").getextrema()[0] < 255:
                    raise InputError(f"{where}: has transparent pixels: put it on a background and save it as RGB")
            colour = image.convert("RGB")
            pixels = np.asarray(colour if channels == 3 else colour.convert("L"))
    except BROKEN:
        raise InputError(f"{where}: a damaged PNG: save the crop again") from None
    return pixels.reshape(SIDE, SIDE, channels)


def _has_all_rows(content: bytes) -> bool:
    """Whether the pixels of a PNG unpack to as many bytes as its header asks for (PNG specification, 7.2 and 8.2)."""
    bits, colour, _, _, interlaced = struct.unpack_from(">5B", content, 24)
    bits_a_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    needed = 0
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        rows, columns = len(range(top, SIDE, down)), len(range(left, SIDE, across))
        needed += rows * (1 + -(-columns * bits_a_pixel // 8))
    packed, place = [], 8
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            packed.append(content[place + 8 : place + 8 + size])
        place += 12 + size
    return len(zlib.decompressobj().decompress(b"".join(packed), needed)) == needed


def _describe(decoded: Decoded, channels: int) -> dict[str, Any]:
    """Return number and size of the crops, exact duplicates, and mean and standard deviation a channel in [0, 1]."""
    n = len(decoded.digests)
    pixels = n * SIDE * SIDE
    mean = decoded.total / pixels
    std = np.sqrt(decoded.squares / pixels - mean**2)
    return {
        "crops": n,
        "height": SIDE,
        "width": SIDE,
        "channels": channels,
        "duplicates": n - len(set(decoded.digests)),
        "mean": [round(float(value) / 255, 6) for value in mean],
        "std": [round(float(value) / 255, 6) for value in std],
    }


def _show(text: str) -> str:
    """Quote what a user handed in: no line breaks or other surprises, not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def _and_others(items: Sized) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
