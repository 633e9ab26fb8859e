"""The files of the competition, written: zips of numbered PNG crops, and their tables."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nuclei.files import atomic_directory, write_csv


def numbers(n_train: int, n_test: int) -> tuple[range, range]:
    """Return the numbers in the names of training and test crops: 1... and 10001..., or more if there are more."""
    first = 10 ** max(4, len(str(n_train))) + 1
    return range(1, n_train + 1), range(first, first + n_test)


def assign_roles(table: pd.DataFrame, test_share: float, seed: int) -> pd.DataFrame:
    """Draw the test crops, a share of each label, at least one and not all; number all, in no order of what they are.

    table: a row a crop with label; the result has the same rows in another order, with role (train, test) and number
    """
    table = table.iloc[np.random.default_rng(seed).permutation(len(table))].reset_index(drop=True)
    labels = table.groupby("label").label
    size = labels.transform("size")
    test = labels.cumcount() < (test_share * size).round().clip(lower=1, upper=size - 1)
    parts = [table[~test].assign(role="train"), table[test].assign(role="test")]
    named = numbers(*map(len, parts))
    return pd.concat(part.assign(number=number) for part, number in zip(parts, named, strict=True))


@contextmanager
def competition_writer(
    out: Path, table: pd.DataFrame, replace: bool = False
) -> Iterator[Callable[[str, int, np.ndarray], None]]:
    """Write train.zip, train.csv, test.zip and example.csv into the folder `out`: all of them or none.

    replace: whether `out` may be a folder of files already, see `atomic_directory`
    table: a row a crop with role (train or test), number, label and, if known, group, for groups.csv, and image, x, y
    (pixels of the image), for positions.csv
    Gives a function of role, number and crop, uint8 (H, W, 3), to be called once for each row. The same calls, the
    same bytes, on every machine.
    """
    with atomic_directory(out, replace) as folder:
        with zipfile.ZipFile(folder / "train.zip", "w") as train, zipfile.ZipFile(folder / "test.zip", "w") as test:
            archives = {"train": train, "test": test}

            def add(role: str, number: int, crop: np.ndarray) -> None:
                png = io.BytesIO()
                # Each zlib finds other repetitions, but builds the same Huffman code; noise repeats nothing anyway.
                Image.fromarray(crop).save(png, "PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
                # A fixed date, so that the bytes are the same tomorrow.
                archives[role].writestr(zipfile.ZipInfo(f"{role}/{number}.png", (2020, 1, 1, 0, 0, 0)), png.getvalue())

            yield add
        names = table.number.astype(str) + ".png"
        training = table.role == "train"
        write_csv(folder / "train.csv", pd.DataFrame({"Filename": names, "Label": table.label})[training])
        write_csv(folder / "example.csv", pd.DataFrame({"Filename": names, "Label": 0})[~training])
        if "group" in table:
            write_csv(folder / "groups.csv", pd.DataFrame({"Filename": names, "Group": table.group})[training])
        if "image" in table:
            x, y = (table[axis].map("{:.10g}".format) for axis in "xy")
            positions = pd.DataFrame({"Filename": names, "Image": table.image, "x": x, "y": y})
            write_csv(folder / "positions.csv", positions[training])
