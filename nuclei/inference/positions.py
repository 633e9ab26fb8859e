"""Where the nuclei of a picture are: tables and GeoJSON."""

import csv
import math
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nuclei.errors import InputError
from nuclei.files import require_file
from nuclei.inference.geojson import read_nuclei

GEOJSON = (".geojson", ".json")
SEPARATORS = ",;\t"
# Names in lower case, and whether they count in microns; the last two are QuPath's.
COLUMNS = (
    (("x", "y"), False),
    (("centroid x px", "centroid y px"), False),
    (("centroid x \N{GREEK SMALL LETTER MU}m", "centroid y \N{GREEK SMALL LETTER MU}m"), True),
)


class Positions(NamedTuple):
    """Nuclei in the order of their file: x, y float64 (N,), pixels, or microns where `microns`."""

    x: np.ndarray
    y: np.ndarray
    microns: bool


def read_positions(path: Path) -> Positions:
    """Read .geojson or .json (see `nuclei.geojson`), or a table with the columns x and y, or QuPath's centroids.

    Tables are separated by commas, semicolons or tabs. 16 bytes a nucleus are held, whatever else the file has.
    Raises InputError that names the row or feature.
    """
    if path.suffix.lower() in GEOJSON:
        x, y, microns = array("d"), array("d"), False
        for nucleus in read_nuclei(path):
            x.append(nucleus.x)
            y.append(nucleus.y)
    else:
        x, y, microns = _read_table(path)
    if not x:
        raise InputError(f"{path}: no nucleus in it: expected at least one")
    return Positions(np.array(x), np.array(y), microns)


def _read_table(path: Path) -> tuple[array, array, bool]:
    x, y = array("d"), array("d")
    try:
        require_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max(SEPARATORS, key=first.count)
            names, microns, places = _find_columns(path, next(csv.reader([first], delimiter=separator), []))
            reader = csv.reader(file, delimiter=separator)
            for values in filter(None, reader):
                try:
                    column, row = (float(values[place]) for place in places)
                    if not math.isfinite(column + row):
                        raise ValueError
                except (IndexError, ValueError):
                    raise InputError(
                        f"{path}, line {reader.line_num + 1}: {separator.join(values)[:60]!a}, expected finite numbers "
                        f"for {names[0]} and {names[1]}: correct it"
                    ) from None
                x.append(column)
                y.append(row)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected a table with x and y") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error}): export it again") from None
    return x, y, microns


def _find_columns(path: Path, header: list[str]) -> tuple[tuple[str, str], bool, list[int]]:
    """Return the names of the two columns, whether they count in microns, and where they are."""
    plain = [name.strip().lower().replace("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}") for name in header]
    for names, microns in COLUMNS:
        if all(plain.count(name) == 1 for name in names):
            return names, microns, [plain.index(name) for name in names]
    raise InputError(
        f"{path}: expected a column x and a column y, in pixels, or QuPath's Centroid X and Centroid Y, "
        f"found {','.join(header)[:100]!a}: name them so"
    )
