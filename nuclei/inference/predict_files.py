"""What a classifier says of crops, and of every nucleus of a tile or slide: from files to files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nuclei.data.cut import cut_all, window
from nuclei.data.geojson import Feature, class_colours, classified, point, read_nuclei, write_features
from nuclei.data.images import as_channels, open_image
from nuclei.data.positions import GEOJSON, Positions, read_positions
from nuclei.data.tissue_image import TissueImage
from nuclei.errors import InputError, warn
from nuclei.figures import save_figure
from nuclei.files import atomic_write
from nuclei.inference.classifier import Classifier
from nuclei.inference.crop_files import open_crop_files
from nuclei.inference.overlay import draw_overlay

ROWS_AT_ONCE = 2**16  # of a table that is written
LONGEST = 4000  # pixels of the overlay
RADIUS = 3.0  # microns of the rings on it


def predict_crops(classifier: Classifier, path: Path, mpp: float | None, table: Path) -> np.ndarray:
    """Classify a crop, a folder or a zip of crops (see `open_crop_files`) into `table`.

    The table has Filename, Predicted (label), Class (its name), Probability_0 to Probability_K-1 (calibrated), Set
    (names of the classes in its conformal set of coverage 0.9, see `Classifier.sets`, separated by "; ") and Unsure
    (True where the set has more than one class).

    Args:
        classifier: What classifies them.
        path: Of the crops.
        mpp: Microns per pixel; None: what each file tells, or else the model's.
        table: The CSV file to be written.

    Returns:
        Labels, int64 (N,).

    Raises:
        InputError: See `open_crop_files`.
    """
    with open_crop_files(path, classifier.task, mpp) as (names, read), atomic_write(table) as temporary:
        crops = ((row, as_channels(read(name), classifier.channels)) for row, name in enumerate(names))
        probabilities = _predict(classifier, crops, len(names))
        sets = classifier.sets(probabilities)
        _write_table(temporary, lambda rows: {"Filename": names[rows]}, probabilities, sets, classifier.classes)
    return probabilities.argmax(axis=1)


def predict_image(
    classifier: Classifier, path: Path, nuclei: Path, mpp: float | None, table: Path, geojson: Path, overlay: Path
) -> tuple[np.ndarray, float, str]:
    """Classify the nuclei of a tile or slide, see `predict_nuclei`.

    Args:
        classifier: What classifies them.
        path: Of the tile or slide.
        nuclei: Of the file that says where they are, see `read_positions`.
        mpp: Microns per pixel; None: what the image tells, or else the model's, of which a warning tells.
        table: As in `predict_nuclei`.
        geojson: As in `predict_nuclei`.
        overlay: As in `predict_nuclei`.

    Returns:
        Labels, int64 (N,); microns per pixel, and where they come from.

    Raises:
        InputError: The nuclei are in microns and the resolution is unknown, and as `predict_nuclei`.
    """
    task = classifier.task
    with open_image(path) as image:
        known, source = (mpp, "--mpp") if mpp else (image.mpp, image.mpp_source)
        used = known or task.mpp
        positions = read_positions(nuclei, path.name, window(used, task))
        if positions.microns and not known:
            raise InputError(f"{path}: does not tell its resolution, and {nuclei} counts in microns: give --mpp")
        positions = _in_pixels(positions, used, image, nuclei)
        if not known:
            warn(f"{path} does not tell its resolution: taken for {task.mpp:g} microns per pixel; see --mpp")
            source = "assumed"
        elif source.startswith("an objective"):
            warn(f"{path} tells {source} alone: taken for {known:.3g} microns per pixel; see --mpp")
        if positions.left_out:
            warn(f"{nuclei}: {positions.left_out}")
        labels = predict_nuclei(classifier, image, nuclei, used, table, geojson, overlay, positions, source)
    return labels, used, source


def predict_nuclei(
    classifier: Classifier,
    image: TissueImage,
    nuclei: Path,
    mpp: float,
    table: Path,
    geojson: Path,
    overlay: Path,
    positions: Positions | None = None,
    mpp_source: str = "",
) -> np.ndarray:
    """Classify the nuclei of a tile or slide and write three files, all of them or none.

    About 200 bytes per nucleus are held; all else is read and written in pieces. Drawing 4000x4000 pixels takes 2 GB.

    Args:
        classifier: What classifies them.
        image: The tile or slide.
        nuclei: Of the file that says where they are, see `read_positions`.
        mpp: Microns per pixel of the image.
        table: To be written, CSV: as of `predict_crops`, with x and y in pixels for Filename, in the order of `nuclei`.
        geojson: To be written: the features of `nuclei`, or points, with QuPath's classification and the probabilities
            as measurements; properties Set and Unsure as in the table.
        overlay: To be written, PNG: the image, no side longer than 4000 pixels, with a ring in the colour of its class
            round every nucleus.
        positions: The nuclei in pixels, where they were read before.
        mpp_source: Where `mpp` comes from, for the GeoJSON file.

    Returns:
        Labels, int64 (N,).

    Raises:
        InputError: A nucleus lies outside of the image, or a file cannot be read.
    """
    span = window(mpp, classifier.task)
    if positions is None:
        positions = _in_pixels(read_positions(nuclei, image.path.name, span), mpp, image, nuclei)
    x, y, classes = positions.x, positions.y, classifier.classes
    with atomic_write(table) as new_table, atomic_write(geojson) as new_geojson, atomic_write(overlay) as new_overlay:
        cuts = cut_all(image, y, x, mpp, classifier.task)
        crops = ((row, as_channels(crop, classifier.channels)) for row, crop in cuts)
        probabilities = _predict(classifier, crops, len(x))
        labels, sets = probabilities.argmax(axis=1), classifier.sets(probabilities)
        thumbnail = image.thumbnail(LONGEST)
        scale = thumbnail.shape[1] / image.width
        if nuclei.suffix.lower() in GEOJSON:
            features: Iterator[Feature] = (nucleus.feature for nucleus in read_nuclei(nuclei, span))
        else:
            features = map(point, map(float, x), map(float, y))
        _write_table(
            new_table, lambda rows: {"x": _digits(x[rows]), "y": _digits(y[rows])}, probabilities, sets, classes
        )
        about = {"mpp": mpp, "mpp_source": mpp_source or "given"}
        write_features(new_geojson, _classified(features, probabilities, sets, classes), about)
        rings = draw_overlay(thumbnail, scale * x, scale * y, labels, scale * RADIUS / mpp, classes)
        save_figure(rings, new_overlay)
    return labels


def _in_pixels(positions: Positions, mpp: float, image: TissueImage, nuclei: Path) -> Positions:
    """Return the positions in pixels. Raises InputError where a nucleus lies outside of the image."""
    x, y = (values / mpp if positions.microns else values for values in (positions.x, positions.y))
    outside = np.flatnonzero((x < 0) | (y < 0) | (x > image.width) | (y > image.height))
    if len(outside):
        first = outside[0]
        raise InputError(
            f"{nuclei}: nucleus {first + 1} at x {x[first]:.10g}, y {y[first]:.10g} (and {len(outside) - 1:,} others) "
            f"lies outside of {image.path} ({image.width}x{image.height} pixels): are these its nuclei, in pixels of "
            "its full resolution?"
        )
    return positions._replace(x=x, y=y, microns=False)


def _predict(classifier: Classifier, crops: Iterable[tuple[int, np.ndarray]], n: int) -> np.ndarray:
    """Return probabilities, float32 (N, K), of the crops of rows 0..N-1, which may come in any order."""
    probabilities = np.empty((n, len(classifier.classes)), np.float32)
    with tqdm(total=n, unit="nucleus", disable=None) as bar:
        for rows, batch in classifier.predict_all(crops):
            probabilities[rows] = batch
            bar.update(len(rows))
    return probabilities


def _write_table(
    path: Path,
    keys: Callable[[slice], dict[str, list[str]]],
    probabilities: np.ndarray,
    sets: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Write the table; `keys` gives the first columns of the rows in a slice."""
    names = np.array(classes)
    with path.open("w", encoding="utf-8", newline="") as file:
        for start in range(0, len(probabilities), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            labels = probabilities[rows].argmax(axis=1)
            columns: dict[str, Any] = {**keys(rows), "Predicted": labels, "Class": names[labels]}
            columns |= {f"Probability_{label}": values for label, values in enumerate(probabilities[rows].T)}
            columns |= {"Set": [_names(row, classes) for row in sets[rows]], "Unsure": sets[rows].sum(axis=1) > 1}
            table = pd.DataFrame(columns)
            table.to_csv(file, header=not start, index=False, float_format="%.6g", lineterminator="\n")


def _digits(values: np.ndarray) -> list[str]:
    """Write coordinates with ten significant digits: the table's six would move a nucleus of a large slide."""
    return [f"{value:.10g}" for value in values]


def _names(members: np.ndarray, classes: Sequence[str]) -> str:
    """Name the classes of a conformal set, bool (K,)."""
    return "; ".join(name for name, member in zip(classes, members, strict=True) if member)


def _classified(
    features: Iterator[Feature], probabilities: np.ndarray, sets: np.ndarray, classes: Sequence[str]
) -> Iterator[Feature]:
    colours = class_colours(len(classes))
    for feature, row, members in zip(features, probabilities, sets, strict=True):
        label = int(row.argmax())
        measurements = {f"Probability: {name}": float(f"{value:.6g}") for name, value in zip(classes, row, strict=True)}
        conformal = {"Set": _names(members, classes), "Unsure": bool(members.sum() > 1)}
        yield classified(feature, classes[label], colours[label], measurements, conformal)
