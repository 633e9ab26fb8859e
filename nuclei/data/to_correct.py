"""Suspected label errors, handed to people: a table for a spreadsheet, and GeoJSON for QuPath.

`nuclei.data.relabel` reads both again.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

import pandas as pd

from nuclei.data.geojson import Feature, class_colours, classified, point, write_features
from nuclei.data.positions import open_table
from nuclei.errors import InputError
from nuclei.files import write_csv

OBJECT = re.compile(r"(.+); labelled ([^;]+); suggested ([^;]+)")  # name of an object; no class has a semicolon
Place = tuple[str, float, float]


def write_to_correct(folder: Path, issues: pd.DataFrame, classes: Sequence[str], positions: Path) -> None:
    """Write to_correct.csv and, of crops whose positions are known, to_correct_IMAGE.geojson for each image.

    The table has Filename, Label and Suggested (names), Corrected (empty: for the reader's answer), Score and
    Probability_<model> and, if they are known, Image, x and y (pixels). An object of the GeoJSON is an annotation with
    the label as its classification; its name tells file, label and suggestion.

    Args:
        folder: Where they are written.
        issues: Of `find_label_issues`: Filename, Label, Suggested (numbers), Probability_<model>, Score.
        classes: Names of the classes.
        positions: positions.csv beside train.csv (Filename, Image, x, y); need not exist.

    Raises:
        InputError: positions.csv cannot be read.
    """
    names = pd.Series(classes, dtype=object)
    table = issues.assign(Label=issues["Label"].map(names), Suggested=issues["Suggested"].map(names))
    table.insert(3, "Corrected", "")
    places = _read_places(positions, set(table["Filename"])) if positions.exists() else {}
    if places:
        columns = zip(*(places.get(name, ("", "", "")) for name in table["Filename"]), strict=True)
        for column, values in zip(("Image", "x", "y"), columns, strict=True):
            table[column] = [value if isinstance(value, str) else f"{value:.10g}" for value in values]
    write_csv(folder / "to_correct.csv", table)
    colours = dict(zip(classes, class_colours(len(classes)), strict=True))
    by_image: dict[str, list[Feature]] = {}
    for row in table.to_dict("records"):
        if row["Filename"] in places:
            image, x, y = places[row["Filename"]]
            name = f"{row['Filename']}; labelled {row['Label']}; suggested {row['Suggested']}"
            feature = point(x, y) | {"properties": {"objectType": "annotation", "name": name}}
            score = {"Score": float(f"{row['Score']:.6g}")}
            by_image.setdefault(image, []).append(classified(feature, row["Label"], colours[row["Label"]], score))
    for image, features in by_image.items():
        write_features(folder / f"to_correct_{PurePath(image).stem}.geojson", features)


def _read_places(path: Path, names: Collection[str]) -> dict[str, Place]:
    """Return image, x and y of those of `names` that positions.csv has."""
    with open_table(path) as (columns, rows):
        if columns.image is None or "filename" not in columns.header:
            raise InputError(f"{path}: expected the columns Filename, Image, x, y: import the slides again")
        column = columns.header.index("filename")
        return {row.texts[0]: (row.image, row.x, row.y) for row in rows(Counter(), [column]) if row.texts[0] in names}
