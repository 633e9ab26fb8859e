"""The four files of a competition, checked and decoded: zips of PNG crops and tables in, arrays and an index out."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nuclei.data.png import crop_side, decode_one
from nuclei.data.tables import read_table, read_training_table
from nuclei.data.zips import match, open_zip
from nuclei.files import atomic_directory, write_csv, write_json
from nuclei.task import CLASSES, MPP, Task

DECODERS = 2  # threads; zlib runs outside of Python's lock
CROPS_PER_TASK = 256


class Decoded(NamedTuple):
    """What is known of the crops of one part: of each crop its digest; of all of them sums a channel, int64 (C,)."""

    digests: list[bytes]
    total: np.ndarray
    squares: np.ndarray


def unpack(
    raw: Path, out: Path, channels: int, classes: Sequence[str] | None = CLASSES, mpp: float = MPP
) -> dict[str, Any]:
    """Decode `raw`'s train.zip and test.zip into the folder `out`; return the data report.

    raw: holds train.zip, train.csv (Filename, Label), test.zip, example.csv (Filename); train.csv may have a column
    Group, or groups.csv (Filename, Group) may lie beside it: crops of one patient or slide share its value
    channels: 3 (RGB) or 1 (grey, ITU-R 601-2 luma); classes: names by label; None: the column Label has them; mpp:
    microns per pixel of the crops, which is noted

    Writes train.npy and test.npy, uint8 (N, side, side, channels); train.csv with Filename, Label and, if given, Group;
    test.csv with Filename: rows in the order of train.csv and of example.csv; task.json, see `read_task`. All of them
    or, on any error, none. The side is that of the first crop, and all others must have it.
    Raises InputError for whatever is not as said above.
    """
    train, names, notes = read_training_table(raw, classes)
    test = read_table(raw / "example.csv", ("Filename",))
    report: dict[str, Any] = {"notes": notes}
    digests, side = {}, 0
    with atomic_directory(out, replace=True) as folder:
        for part, table, source in (("train", train, "train.csv"), ("test", test, "example.csv")):
            with open_zip(raw / f"{part}.zip") as archive:
                members = match(archive, table, raw / source)
                side = side or crop_side(archive, members[0])
                shape = (len(members), side, side, channels)
                crops = _new_array(folder / f"{part}.npy", shape)
                decoded = _decode_all(archive, members, crops)
            crops.flush()
            write_csv(folder / f"{part}.csv", table)
            report[part] = _describe(decoded, side, channels)
            digests[part] = decoded.digests
        write_json(folder / "task.json", Task(names, side, mpp)._asdict())
    counts = train["Label"].value_counts()
    report["train"]["crops_per_class"] = {name: int(counts[str(label)]) for label, name in enumerate(names)}
    labels_a_crop = train.assign(digest=digests["train"]).groupby("digest")["Label"].nunique()
    report["same_crop_other_label"] = int((labels_a_crop > 1).sum())
    report["test_crops_in_train"] = sum(digest in labels_a_crop.index for digest in digests["test"])
    return report


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a memory map of a new .npy of uint8 zeros. Raises OSError where the disk has no room for it."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # on a full disk, writing to the map would kill the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _decode_all(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], crops: np.ndarray) -> Decoded:
    """Fill `crops`, uint8 (N, side, side, C), with the members' pixels."""
    side, channels = crops.shape[2:]

    def decode(start: int) -> Decoded:
        chunk = crops[start : start + CROPS_PER_TASK]
        for crop, member in zip(chunk, members[start : start + CROPS_PER_TASK], strict=True):
            crop[:] = decode_one(archive, member, side, channels)
        lines = chunk.reshape(-1, side * channels)  # ten times faster to sum than pixels of three values
        sums = (values.sum(axis=0, dtype=np.int64) for values in (lines, np.square(lines, dtype=np.uint16)))
        return Decoded(
            [hashlib.blake2b(crop, digest_size=16).digest() for crop in chunk],
            *(total.reshape(side, -1).sum(axis=0) for total in sums),
        )

    with ThreadPoolExecutor(DECODERS) as pool:
        digests, totals, squares = zip(*pool.map(decode, range(0, len(members), CROPS_PER_TASK)), strict=True)
    return Decoded([digest for chunk in digests for digest in chunk], np.sum(totals, axis=0), np.sum(squares, axis=0))


def _describe(decoded: Decoded, side: int, channels: int) -> dict[str, Any]:
    """Return number and size of the crops, exact duplicates, and mean and standard deviation a channel in [0, 1]."""
    n = len(decoded.digests)
    pixels = n * side * side
    mean = decoded.total / pixels
    std = np.sqrt(decoded.squares / pixels - mean**2)
    return {
        "crops": n,
        "height": side,
        "width": side,
        "channels": channels,
        "duplicates": n - len(set(decoded.digests)),
        "mean": [round(float(value) / 255, 6) for value in mean],
        "std": [round(float(value) / 255, 6) for value in std],
    }
