"""Where the nuclei of an image are: tables and GeoJSON."""

import csv
import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from nuclei.data.geojson import SIDE, older_object_type, read_nuclei, require_unpacked
from nuclei.errors import InputError, one_line
from nuclei.files import require_file

GEOJSON = (".geojson", ".json")
TABLES = (".csv", ".tsv", ".txt")
SEPARATORS = ",;\t"
NUCLEI = ("detection", "cell")  # QuPath's Object type
LONGEST_HEADER = 2**20  # characters
MOST_IMAGES = 10_000  # of one table
# Names in lower case, and whether they count in microns; the last two are QuPath's.
COLUMNS = (
    (("x", "y"), False),
    (("centroid x px", "centroid y px"), False),
    (("centroid x \N{GREEK SMALL LETTER MU}m", "centroid y \N{GREEK SMALL LETTER MU}m"), True),
)


class Positions(NamedTuple):
    """Nuclei in the order of their file.

    Attributes:
        x: float64 (N,), pixels, or microns.
        y: float64 (N,), likewise.
        microns: Whether x and y are in microns.
        left_out: Tells what in the file was taken for no nucleus, "" where there was nothing.
    """

    x: np.ndarray
    y: np.ndarray
    microns: bool
    left_out: str = ""


class Columns(NamedTuple):
    """The header of a table.

    Attributes:
        names: Of x and y.
        microns: Whether they are in microns.
        xy: Their numbers.
        image: Number of the column that names the image; None: there is none.
        object_type: Number of the column with QuPath's Object type; None: there is none.
        name: Number of the column Name, where QuPath before 0.4 has PathCellObject and the like; None: there is none.
        width: Number of columns.
        header: All names, in lower case.
    """

    names: tuple[str, str]
    microns: bool
    xy: list[int]
    image: int | None
    object_type: int | None
    name: int | None
    width: int
    header: tuple[str, ...]


def read_positions(path: Path, image: str | None = None, side: float = SIDE) -> Positions:
    """Read .geojson or .json (see `read_nuclei`), or a table with the columns x and y, or QuPath's centroids.

    Tables are separated by commas, semicolons or tabs. Of a table of several images (QuPath's column Image), the rows
    of `image` count; rows whose Object type is neither Detection nor Cell are left out.

    Args:
        path: Of the file. 16 bytes per nucleus are held, whatever else the file has.
        image: Name of the image's file.
        side: Pixels that a crop spans.

    Raises:
        InputError: Names the row or feature.
    """
    left_out: Counter[str] = Counter()
    if path.suffix.lower() in GEOJSON:
        x, y, microns = array("d"), array("d"), False
        for nucleus in read_nuclei(path, side, left_out):
            x.append(nucleus.x)
            y.append(nucleus.y)
    else:
        x, y, microns = _read_table(path, image, left_out)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items())
    if not x:
        rest = f" but {counts}" if counts else ""
        raise InputError(f"{path}: no nucleus in it{rest}: expected at least one")
    return Positions(np.array(x), np.array(y), microns, f"left out, as no nuclei: {counts}" if counts else "")


def find_positions(images: Sequence[Path], files: Sequence[Path]) -> dict[Path, Path]:
    """Return the file of nuclei of each image.

    Args:
        images: Tiles or slides.
        files: A file for each, of the same name but for the ending, or one folder of such files (others in it are
            passed over), or one table of all, with a column Image.

    Raises:
        InputError: An image has no file, or several, or a file no image.
    """
    stems = [image.stem.casefold() for image in images]
    for image, stem in zip(images, stems, strict=True):
        if stems.count(stem) > 1:
            raise InputError(f"{image}: another image has this name too: rename one, files of nuclei go by it")
    folder = files[0] if len(files) == 1 and files[0].is_dir() else None
    if folder:
        listed = sorted(file for file in folder.iterdir() if file.suffix.lower() in (*GEOJSON, *TABLES))
        files = [file for file in listed if file.stem.casefold() in stems]
    elif len(files) == 1 and len(images) == 1:
        return {images[0]: files[0]}
    elif len(files) == 1 and files[0].suffix.lower() not in GEOJSON:
        with open_table(files[0]) as (columns, _):
            if columns.image is None:
                raise InputError(f"{files[0]}: no column Image, and {len(images)} images: say which each row is of")
        return dict.fromkeys(images, files[0])
    by_stem: dict[str, Path] = {}
    for file in files:
        other = by_stem.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise InputError(f"{file}: {other} has this name too: leave one out")
    for image, stem in zip(images, stems, strict=True):
        if stem not in by_stem:
            where = f" in {folder}" if folder else ""
            raise InputError(f"{image}: no file of nuclei has its name: expected {image.stem}.geojson or .csv{where}")
    for stem, file in by_stem.items():
        if stem not in stems:
            raise InputError(f"{file}: no image has its name: give the image too, or leave it out")
    return {image: by_stem[stem] for image, stem in zip(images, stems, strict=True)}


class Row(NamedTuple):
    """A nucleus of a table.

    Attributes:
        where: File and line, for messages.
        image: Name of its image, "" where the table has no such column.
        x: Pixels, or microns.
        y: Likewise.
        texts: Its values in the columns that were asked for.
    """

    where: str
    image: str
    x: float
    y: float
    texts: tuple[str, ...]


def _read_table(path: Path, image: str | None, left_out: Counter[str]) -> tuple[array, array, bool]:
    by_image: dict[str, tuple[array, array]] = {}
    with open_table(path) as (columns, rows):
        for row in rows(left_out, ()):
            if row.image not in by_image and len(by_image) == MOST_IMAGES:
                raise InputError(f"{path}: rows of more than {MOST_IMAGES:,} images: export those of this one")
            x, y = by_image.setdefault(row.image, (array("d"), array("d")))
            x.append(row.x)
            y.append(row.y)
    if not by_image:
        return array("d"), array("d"), columns.microns
    name = "" if columns.image is None else choose_image(path, list(by_image), image)
    return *by_image[name], columns.microns


@contextmanager
def open_table(path: Path) -> Iterator[tuple[Columns, Callable[[Counter[str], Sequence[int]], Iterator[Row]]]]:
    """Open a table of nuclei, separated by commas, semicolons or tabs.

    Args:
        path: Of the table.

    Yields:
        Its header, and what reads its rows: given what counts those that are left out, since their Object type is no
        nucleus, and the numbers of the columns whose texts are wanted.

    Raises:
        InputError: Names the line.
    """
    reader = None
    try:
        require_file(path)
        require_unpacked(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_HEADER)
            separator = max(SEPARATORS, key=first.count)
            columns = _find_columns(path, next(csv.reader([first], delimiter=separator, strict=True), []))
            reader = csv.reader(file, delimiter=separator, strict=True)

            def rows(left_out: Counter[str], texts: Sequence[int]) -> Iterator[Row]:
                end, named, unnamed = 0, "", ""
                for values in reader:
                    lines, end = reader.line_num - end, reader.line_num
                    where = f"{path}, line {end - lines + 2}"  # the header is the first
                    if lines > 1:
                        raise InputError(f"{where}: a quoted value goes on for {lines} lines: check the quotes")
                    if not values:
                        continue
                    _require_width(values, columns.width, separator, where)
                    kind = _object_type(values, columns)
                    if kind and kind.lower() not in NUCLEI:
                        left_out[one_line(kind[:40])] += 1
                        continue
                    try:
                        x, y = (_number(values[i]) for i in columns.xy)
                    except (IndexError, ValueError):
                        raise InputError(
                            f"{where}: {separator.join(values)[:60]!a}, expected finite numbers for {columns.names[0]} "
                            f"and {columns.names[1]}: correct it"
                        ) from None
                    wanted = tuple(_value(values, i) for i in texts)
                    image = _value(values, columns.image)
                    named, unnamed = (named or where, unnamed) if image else (named, unnamed or where)
                    if named and unnamed:  # it would belong to no image, and be lost
                        raise InputError(f"{unnamed}: no Image, as other rows have: fill it in")
                    yield Row(where, image, x, y, wanted)

            yield columns, rows
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected a table with x and y") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error}): export it again") from None
    except csv.Error as error:
        line = reader.line_num + 1 if reader else 1
        raise InputError(f"{path}, line {line}: not valid CSV ({one_line(str(error))}): check the quotes") from None


def _value(values: list[str], i: int | None) -> str:
    return "" if i is None or i >= len(values) else values[i].strip()


def _object_type(values: list[str], columns: Columns) -> str:
    """Return what QuPath calls the object of a row, "" where it does not tell."""
    kind = _value(values, columns.object_type)
    return older_object_type(kind) or kind or older_object_type(_value(values, columns.name))


def _require_width(values: list[str], width: int, separator: str, where: str) -> None:
    """Raise InputError where a row is longer than the header: its values would stand in other columns."""
    if any(value.strip() for value in values[width:]):
        raise InputError(
            f"{where}: {len(values)} values, expected {width} as in the header: quote values with {separator!a} in "
            "them, write decimal points, name the column of row names"
        )


def _number(text: str) -> float:
    """Return a finite number. Raises ValueError, also for 1_000, which Python takes."""
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError
    return value


def choose_image(path: Path, names: list[str], image: str | None) -> str:
    """Return the image of a table that is the one at hand: by its name, or else by its name without the ending."""
    if names == [""] or (image is None and len(names) == 1):
        return names[0]
    for plain in (_file_name, image_stem):
        matches = [name for name in names if plain(name) == plain(image or "")]
        if len(matches) == 1:
            others = [name for name in names if name != matches[0] and _file_name(name) == image_stem(image or "")]
            if others:
                raise InputError(
                    f"{path}: its column Image has {matches[0]!a} and {others[0]!a}: write one name for both"
                )
            return matches[0]
    listed = ", ".join(map(ascii, names[:10])) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    raise InputError(f"{path}: its column Image names {listed}, expected {image!a}: export the rows of this image")


def _file_name(name: str) -> str:
    return unicodedata.normalize("NFC", PurePath(name.replace("\\", "/")).name).casefold()


def image_stem(name: str) -> str:
    """Return what the spellings of an image's name have in common: without folders, ending and case."""
    return PurePath(_file_name(name)).stem


def _find_columns(path: Path, header: list[str]) -> Columns:
    """Find the columns by their names, in any case."""
    plain = [name.strip().lower().replace("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}") for name in header]
    image, object_type, name = (
        plain.index(wanted) if wanted in plain else None for wanted in ("image", "object type", "name")
    )
    for names, microns in COLUMNS:
        if all(plain.count(name) == 1 for name in names):
            xy = [plain.index(name) for name in names]
            return Columns(names, microns, xy, image, object_type, name, len(header), tuple(plain))
    raise InputError(
        f"{path}: expected a column x and a column y, in pixels, or QuPath's Centroid X and Centroid Y, "
        f"found {','.join(header)[:100]!a}: name them so"
    )
