"""Nuclei as GeoJSON features, the way QuPath and StarDist write them, one after the other: no file is held whole.

Source: QuPath's documentation, "Exporting annotations": coordinates are pixels of the full resolution, from the top
left corner. RFC 7946 for the geometries.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ijson
import numpy as np

from nuclei.errors import InputError
from nuclei.files import atomic_write, require_file

Feature = dict[str, Any]

DEEPEST = 64  # levels; ijson's memory grows with the square


class Nucleus(NamedTuple):
    """A nucleus: where its middle is, pixels, and the feature that it becomes when it is written."""

    x: float
    y: float
    feature: Feature


def read_nuclei(path: Path) -> Iterator[Nucleus]:
    """Yield the nuclei of a feature collection or of an array of features, in their order.

    A Point is a nucleus, and so is every point of a MultiPoint; a Polygon or MultiPolygon counts with its centroid,
    a cell with that of its nucleus (QuPath's `nucleusGeometry`). Raises InputError.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            start = file.read(64)
            file.seek(3 if start.startswith(BOM_UTF8) else 0)
            where = "item" if start.removeprefix(BOM_UTF8).lstrip().startswith(b"[") else "features.item"
            events = _shallow(ijson.basic_parse(file, use_float=True))
            for number, feature in enumerate(ijson.items(ijson.parse(events), where), start=1):
                try:
                    yield from _nuclei(feature)
                except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                    raise InputError(
                        f"{path}, feature {number}: expected a Point, MultiPoint, Polygon or MultiPolygon of finite "
                        "numbers: correct it or leave it out"
                    ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected GeoJSON") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"{path}: not valid JSON ({reason}): export it again, from QuPath without measurements, which may be NaN"
        ) from None


def _shallow(events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    depth = 0
    for event in events:
        depth += event[0].startswith("start_") - event[0].startswith("end_")
        if depth > DEEPEST:
            raise ijson.JSONError(f"nested deeper than {DEEPEST} levels")
        yield event


def _nuclei(feature: Feature) -> Iterator[Nucleus]:
    if not isinstance(feature.get("properties") or {}, dict):
        raise ValueError
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Point":
        yield Nucleus(*_finite(coordinates), feature)
    elif kind == "MultiPoint":
        for place in coordinates:
            x, y = _finite(place)
            yield Nucleus(x, y, point(x, y))  # the original stands for all of them
    elif kind in ("Polygon", "MultiPolygon"):
        outlines = [coordinates[0]] if kind == "Polygon" else [polygon[0] for polygon in coordinates]
        yield Nucleus(*_finite(_centroid([np.array(ring, np.float64)[:, :2] for ring in outlines])), feature)
    else:
        raise ValueError


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
            middles.append(origin + ((a + b) * cross[:, None]).sum(axis=0) / (6 * area))
            areas.append(abs(area))
    return np.average(middles, axis=0, weights=areas) if areas else np.concatenate(rings).mean(axis=0)


def point(x: float, y: float) -> Feature:
    """Return a feature of one point."""
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": [x, y]}}


def classified(feature: Feature, name: str, colour: tuple[int, int, int], measurements: dict[str, float]) -> Feature:
    """Return the feature with QuPath's classification: a name and a colour, RGB; earlier measurements stay.

    What was no object of QuPath's yet becomes a detection.
    """
    own = feature.get("properties") or {}
    earlier = own.get("measurements")
    return feature | {
        "properties": {"objectType": "detection"}
        | own
        | {
            "classification": {"name": name, "color": list(colour)},
            "measurements": (earlier if isinstance(earlier, dict) else {}) | measurements,
        }
    }


def write_features(path: Path, features: Iterable[Feature]) -> None:
    """Write a feature collection, a feature a line."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in features:
            file.write(separator + json.dumps(feature, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")
