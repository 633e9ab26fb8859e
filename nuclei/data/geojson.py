"""Nuclei as QuPath, StarDist, HoVer-Net and CellViT write them, one after the other: no file is held whole.

Source: QuPath's documentation, "Exporting annotations": coordinates are pixels of the full resolution, from the top
left corner. RFC 7946 for the geometries.
"""

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Iterator
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ijson
import numpy as np

from nuclei.errors import InputError, one_line
from nuclei.files import atomic_write, require_file

Feature = dict[str, Any]

DEEPEST = 64  # levels; ijson's memory grows with the square
LONGEST_TOKEN = 2**22  # bytes; its time grows with the square
SIDE = 100.0  # pixels that a crop spans at 40x
LAYOUTS = {"features": "features.item", "nuc": "nuc", "cells": "cells.item", "geometry": ""}
FEATURES = ("item", "features.item", "")
# Of classes, RGB, Okabe & Ito's: told apart by colour-blind readers, and from haematoxylin and eosin.
COLOURS = ((0, 158, 115), (213, 94, 0), (86, 180, 233), (240, 228, 66), (0, 114, 178), (204, 121, 167), (230, 159, 0))
GOLDEN = 0.618034  # of the circle of hues, between neighbours of further classes: no two are close
AREAS = ("annotation", "tma_core", "tma core", "tmacore", "tile", "root")  # no nuclei, unless they are small


class Nucleus(NamedTuple):
    """A nucleus.

    Attributes:
        x: Pixels, of its middle.
        y: Likewise.
        feature: What it becomes when it is written.
        label: Name of its classification, "" where it has none.
        outline: Its closed rings, float64 (M, 2), x and y in pixels, without holes; none: a point.
    """

    x: float
    y: float
    feature: Feature
    label: str = ""
    outline: tuple[np.ndarray, ...] = ()


def read_nuclei(path: Path, side: float = SIDE, left_out: Counter[str] | None = None) -> Iterator[Nucleus]:
    """Read the nuclei of a file.

    GeoJSON: a feature collection, an array of features or a feature. A Point is a nucleus, and so is every point of
    a MultiPoint; a Polygon counts with its centroid, a cell with that of its nucleus (QuPath's `nucleusGeometry`). A
    MultiPolygon is a nucleus where it fits into a crop, else each of its polygons is one (CellViT writes a feature
    per class). An annotation that is larger than a crop is no nucleus: it is left out.
    JSON of HoVer-Net (`nuc`) or CellViT (`cells`): `centroid`, x and y in pixels.

    Args:
        path: Of the file.
        side: Pixels that a crop spans.
        left_out: Counts what is left out, by its kind.

    Yields:
        The nuclei, in their order.

    Raises:
        InputError: Names the feature.
    """
    left_out = Counter() if left_out is None else left_out
    try:
        require_file(path)
        require_unpacked(path)
        layout = _find_layout(path)
        for number, item in enumerate(_items(path, layout), start=1):
            try:
                yield from _nuclei(item, side, left_out) if layout in FEATURES else _nucleus_of_cell(item)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
                expected = "a Point, MultiPoint, Polygon or MultiPolygon" if layout in FEATURES else "a centroid"
                raise InputError(
                    f"{path}, feature {number}: expected {expected} of finite numbers: correct it or leave it out"
                ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected GeoJSON") from None
    except (ijson.JSONError, UnicodeDecodeError, OverflowError) as error:
        reason = one_line(" ".join(str(error).split())[:100])
        if "trailing" in reason or "Additional data" in reason:
            raise InputError(f"{path}: more than one JSON value: put the features into one array") from None
        raise InputError(
            f"{path}: not valid JSON ({reason}): export it again, from QuPath without measurements, which may be NaN"
        ) from None


def require_unpacked(path: Path) -> None:
    """Look whether a file is packed, or text in UTF-16, whatever its name.

    Raises:
        InputError: It is.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        raise InputError(f"{path}: a zip or an Excel workbook: unpack it first, or save it as CSV in UTF-8")
    if start.startswith(b"\x1f\x8b"):
        raise InputError(f"{path}: packed by gzip: unpack it first")
    if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or (len(start) == 4 and bytes(2) in (start[::2], start[1::2])):
        raise InputError(f"{path}: text in UTF-16, expected UTF-8: save it so")


def _find_layout(path: Path) -> str:
    """Return the prefix of the nuclei in a file, as ijson calls it."""
    names = []
    with _open_json(path) as events:
        for prefix, event, value in events:
            if prefix == "" and event == "start_array":
                return "item"
            if prefix == "" and event == "map_key":
                if value in LAYOUTS:
                    return LAYOUTS[value]
                names.append(value)
            elif prefix == "" and event not in ("start_map", "end_map"):
                break
    raise InputError(
        f"{path}: no nucleus in it: expected a FeatureCollection, an array of features, HoVer-Net's nuc or CellViT's "
        f"cells, found {','.join(names)[:100]!a}"
    )


def read_magnification(path: Path) -> float | None:
    """Return the objective, such as 20, in whose pixels HoVer-Net gives the nuclei of a slide; None where none is told.

    Args:
        path: Of a file that `read_nuclei` reads.
    """
    with _open_json(path) as events:
        for prefix, event, value in events:
            if prefix == "mag" and event == "number":
                return float(value) if value > 0 else None
            if prefix == "" and (event == "start_array" or value in LAYOUTS):  # HoVer-Net writes it before
                return None
    return None


def _items(path: Path, layout: str) -> Iterator[Any]:
    with _open_json(path) as events:
        if layout == "nuc":
            yield from (value for _, value in ijson.kvitems(events, "nuc"))
        else:
            yield from ijson.items(events, layout)


@contextmanager
def _open_json(path: Path) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """Give the events of a JSON file with their prefixes."""
    with path.open("rb") as file:
        if file.read(3) != BOM_UTF8:
            file.seek(0)
        yield ijson.parse(_shallow(ijson.basic_parse(BoundedTokens(file), use_float=True)))


class BoundedTokens:
    """What reads a JSON file without strings or numbers so long that the parser's time grows with their square."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.in_string = self.is_escaped = False
        self.length = 0

    def read(self, size: int = -1) -> bytes:
        """Read as any file does. Raises JSONError where a token is longer than LONGEST_TOKEN."""
        data = self.file.read(size)
        rest = data[1:] if self.is_escaped else data
        self.is_escaped = bool((len(rest) - len(rest.rstrip(b"\\"))) % 2)
        rest = rest.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")  # as long as before
        quotes = rest.count(b'"')
        if quotes:
            self.in_string ^= quotes % 2 == 1
            self.length = len(rest) - rest.rindex(b'"')
        elif self.in_string or len(rest.translate(None, b",[]{}: \t\r\n")) == len(rest):
            self.length += len(rest)
        else:
            self.length = 0
        if self.length > LONGEST_TOKEN:
            raise ijson.JSONError(f"a text or number of more than {LONGEST_TOKEN:,} bytes")
        return data


def _shallow(events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    depth = 0
    for event in events:
        depth += event[0].startswith("start_") - event[0].startswith("end_")
        if depth > DEEPEST:
            raise ijson.JSONError(f"nested deeper than {DEEPEST} levels")
        yield event


def _nuclei(feature: Feature, side: float, left_out: Counter[str]) -> Iterator[Nucleus]:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError
    label = _classification(properties)
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Point":
        x, y = _finite(coordinates)
        yield Nucleus(x, y, feature, label)
    elif kind == "MultiPoint":
        for position in coordinates:
            x, y = _finite(position)
            yield Nucleus(x, y, point(x, y), label)  # the original stands for all of them
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = [coordinates] if kind == "Polygon" else coordinates
        rings = [np.array(polygon[0], np.float64)[:, :2] for polygon in polygons]
        extent = np.ptp(np.concatenate(rings), axis=0).max()
        if len(rings) > 1 and extent > side:
            for polygon, ring in zip(polygons, rings, strict=True):
                x, y = _finite(_centroid([ring]))
                part = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": polygon}}
                yield Nucleus(x, y, part, label, (ring,))
        elif extent > side and (kind := _object_type(feature, properties)).lower() in AREAS:
            left_out[one_line(kind[:40])] += 1
        else:
            x, y = _finite(_centroid(rings))
            yield Nucleus(x, y, feature, label, tuple(rings))
    else:
        raise ValueError


def _object_type(feature: Feature, properties: dict[str, Any]) -> str:
    """Return what QuPath calls an object, as it does now (objectType), before 0.4 (object_type) and before 0.2 (id)."""
    named = properties.get("objectType") or properties.get("object_type")
    return str(named or older_object_type(str(feature.get("id", ""))))


def older_object_type(name: str) -> str:
    """Return what QuPath called an object by the name of its class (PathCellObject: Cell); "" where `name` is none."""
    match = re.fullmatch(r"(?:Path)?(\w+)Object", name)
    return match[1] if match else ""


def _classification(properties: dict[str, Any]) -> str:
    """Return the name of QuPath's classification; of a derived one all its names, as QuPath shows them."""
    value = properties.get("classification") or ""
    if isinstance(value, dict):
        value = value.get("name") or ": ".join(value.get("names") or [])
    if not isinstance(value, str | int | float):
        raise ValueError
    return str(value).strip()


def _nucleus_of_cell(cell: dict[str, Any]) -> Iterator[Nucleus]:
    """Yield a nucleus of HoVer-Net or CellViT, with its outline where it has one."""
    x, y = _finite(cell["centroid"])
    contour = cell.get("contour")
    if not contour:
        yield Nucleus(x, y, point(x, y))
        return
    ring = [list(_finite(position)) for position in contour]
    if ring[0] != ring[-1]:
        ring.append(ring[0])  # as GeoJSON wants it
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    yield Nucleus(x, y, feature, outline=(np.array(ring),))


def _finite(point: Iterable[float]) -> tuple[float, float]:
    x, y = (float(value) for value in list(point)[:2])
    if not np.isfinite(x + y):
        raise ValueError
    return x, y


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused
def _centroid(rings: list[np.ndarray]) -> np.ndarray:
    """Return the centroid (x, y) of the area within closed rings, float64 (M, 2) each; of the vertices where it is 0.

    Source: Bourke 1988, "Calculating the area and centroid of a polygon".
    """
    middles, areas = [], []
    for ring in rings:
        origin = ring[0]  # near zero, nothing cancels
        a, b = ring - origin, np.roll(ring, -1, axis=0) - origin
        cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
        area = cross.sum() / 2  # negative: clockwise
        if area:
            middle = origin + ((a + b) * cross[:, None]).sum(axis=0) / (6 * area)
            if ((middle < ring.min(axis=0)) | (middle > ring.max(axis=0))).any():  # loops that cancel each other
                middle = ring.mean(axis=0)
            middles.append(middle)
            areas.append(abs(area))
    return np.average(middles, axis=0, weights=areas) if areas else np.concatenate(rings).mean(axis=0)


def point(x: float, y: float) -> Feature:
    """Return a feature of one point, at x and y, pixels."""
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": [x, y]}}


def class_colours(classes: int) -> list[tuple[int, int, int]]:
    """Return a colour, RGB in 0..255, for each of so many classes."""
    further = (hsv_to_rgb(GOLDEN * number % 1, 0.75, 0.85 - 0.25 * (number % 2)) for number in range(classes))
    others = ((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in further)
    return list(islice(chain(COLOURS, others), classes))


def classified(
    feature: Feature,
    name: str,
    colour: tuple[int, int, int],
    measurements: dict[str, float],
    properties: dict[str, Any] | None = None,
) -> Feature:
    """Return a feature with QuPath's classification; what was no object of QuPath's yet becomes a detection.

    Args:
        feature: What is classified; it stays as it is.
        name: Of the class.
        colour: Of the class, RGB, 0..255.
        measurements: By name; earlier ones of other names stay.
        properties: Further ones.
    """
    given = feature.get("properties") or {}
    earlier = given.get("measurements")
    return feature | {
        "properties": {"objectType": "detection"}
        | given
        | (properties or {})
        | {
            "classification": {"name": name, "color": list(colour)},
            "measurements": (earlier if isinstance(earlier, dict) else {}) | measurements,
        }
    }


def write_features(path: Path, features: Iterable[Feature], about: dict[str, Any] | None = None) -> None:
    """Write a feature collection, one feature per line.

    Args:
        path: Of the file.
        features: In their order.
        about: Further members of the collection, which other programs pass over (RFC 7946, section 6.1).
    """
    members = "".join(f"{json.dumps(name)}: {json.dumps(value)}, " for name, value in (about or {}).items())
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"type": "FeatureCollection", {members}"features": [')
        separator = "\n"
        for feature in features:
            file.write(separator + json.dumps(feature, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")
