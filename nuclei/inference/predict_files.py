"""What a classifier says of crops, and of every nucleus of a tile or slide: from files to files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from nuclei.crops import Places
from nuclei.data.cut import cut_all, window
from nuclei.data.geojson import Feature, class_colours, classified, point, read_magnification, read_nuclei
from nuclei.data.geojson import write_features as write_collection
from nuclei.data.images import SUFFIXES, as_channels, open_image
from nuclei.data.positions import GEOJSON, Positions, read_positions
from nuclei.data.resolution import from_power
from nuclei.data.tissue_image import TissueImage
from nuclei.errors import InputError, warn
from nuclei.figures import save_figure
from nuclei.files import atomic_write
from nuclei.inference.classifier import Classifier
from nuclei.inference.crop_files import open_crop_files
from nuclei.inference.features import Embeddings, describe_nuclei, open_embeddings, write_features
from nuclei.inference.overlay import draw_overlay

ROWS_AT_ONCE = 2**16  # of a table that is written
LONGEST = 4000  # pixels of the overlay
RADIUS = 3.0  # microns of the rings on it


class Predictions(NamedTuple):
    """What a classifier says of N crops or nuclei.

    Attributes:
        probabilities: float32 (N, K).
        sets: Conformal sets, bool (N, K).
        novelty: float32 (N,), above 1: unlike anything in training.
    """

    probabilities: np.ndarray
    sets: np.ndarray
    novelty: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The most likely class, int64 (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def unsure(self) -> np.ndarray:
        """Whether the set has more than one class, bool (N,)."""
        return self.sets.sum(axis=1) > 1

    @property
    def unlike(self) -> np.ndarray:
        """Whether it is unlike anything in training, bool (N,)."""
        return self.novelty > 1

    def take(self, rows: slice) -> "Predictions":
        """Return those of some rows."""
        return Predictions(*(values[rows] for values in self))


def predict_crops(
    classifier: Classifier, path: Path, mpp: float | None, table: Path, features: Sequence[Path] = ()
) -> Predictions:
    """Classify a crop, a folder or a zip of crops (see `open_crop_files`) into `table`.

    The table has Filename, Predicted (label), Class (its name), Probability_0 to Probability_K-1 (calibrated), Set
    (names of the classes in its conformal set of coverage 0.9, see `Classifier.sets`, separated by "; "), Unsure (True
    where the set has more than one class), Novelty (see `Classifier.novelty`) and Unlike (True where that is above 1).

    Args:
        classifier: What classifies them.
        path: Of the crops.
        mpp: Microns per pixel; None: what each file tells, or else the model's.
        table: The CSV file to be written.
        features: See `write_features`; none: none are written.

    Raises:
        InputError: See `open_crop_files`; and the classifier is to weigh neighbours, of which crops tell nothing.
    """
    if classifier.neighbours:
        raise InputError(f"{path}: crops do not tell where their nuclei lie: leave out --neighbours")

    def keys(rows: slice) -> dict[str, Any]:
        return {"Filename": names[rows]}

    with (
        open_crop_files(path, classifier.task, mpp) as (names, read),
        atomic_write(table) as temporary,
        open_embeddings(features) as embeddings,
    ):
        crops = ((row, as_channels(read(name), classifier.channels)) for row, name in enumerate(names))
        predictions = _predict(classifier, crops, len(names), embeddings)
        _write_table(temporary, keys, predictions, classifier.classes)
        if embeddings:
            write_features(features, len(names), keys, embeddings, temporary)
    return predictions


def predict_image(
    classifier: Classifier,
    path: Path,
    nuclei: Path,
    mpp: float | None,
    table: Path,
    geojson: Path,
    overlay: Path,
    features: Sequence[Path] = (),
) -> tuple[Predictions, float, str]:
    """Classify the nuclei of a tile or slide, see `predict_nuclei`.

    Args:
        classifier: What classifies them.
        path: Of the tile or slide.
        nuclei: Of the file that says where they are, see `read_positions`.
        mpp: Microns per pixel; None: what the image tells, or else the model's, of which a warning tells.
        table: As in `predict_nuclei`.
        geojson: As in `predict_nuclei`.
        overlay: As in `predict_nuclei`.
        features: As in `predict_nuclei`.

    Returns:
        What the classifier says; microns per pixel, and where they come from.

    Raises:
        InputError: The nuclei are in microns and the resolution is unknown, and as `predict_nuclei`.
    """
    task = classifier.task
    with open_image(path) as image:
        known, source = (mpp, "--mpp") if mpp else (image.mpp, image.mpp_source)
        used = known or task.mpp
        positions = read_positions(nuclei, path.name, window(used, task))
        mag = read_magnification(nuclei) if nuclei.suffix.lower() in GEOJSON else None
        told = from_power(mag).mpp if mag else None
        if told and not 0.8 < told / used < 1.25:
            raise InputError(
                f"{nuclei}: its nuclei are in pixels of {mag:g}x, {told:.3g} microns each, those of {path} have "
                f"{used:.3g}: run HoVer-Net at that resolution (--proc_mag={10 / used:.0f})"
            )
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
        others = [] if nuclei.stem == path.stem else [nuclei.with_suffix(suffix) for suffix in SUFFIXES]
        if other := next(filter(Path.exists, others), None):
            warn(f"{nuclei} has the name of {other}, not of {path}: are these its nuclei?")
        outputs = table, geojson, overlay
        predictions = predict_nuclei(classifier, image, nuclei, used, *outputs, positions, source, features)
    return predictions, used, source


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
    features: Sequence[Path] = (),
) -> Predictions:
    """Classify the nuclei of a tile or slide and write three files or more, all of them or none.

    About 200 bytes per nucleus are held; all else is read and written in pieces. Drawing 4000x4000 pixels takes 2 GB.

    Args:
        classifier: What classifies them.
        image: The tile or slide.
        nuclei: Of the file that says where they are, see `read_positions`.
        mpp: Microns per pixel of the image.
        table: To be written, CSV: as of `predict_crops`, with x and y in pixels for Filename, in the order of `nuclei`.
        geojson: To be written: the features of `nuclei`, or points, with QuPath's classification and the probabilities
            and the novelty as measurements; properties Set, Unsure and Unlike as in the table.
        overlay: To be written, PNG, see `draw_overlay`: no side of the image is longer than 4000 pixels.
        positions: The nuclei in pixels, where they were read before.
        mpp_source: Where `mpp` comes from, for the GeoJSON file.
        features: See `write_features`; none: none are written.

    Raises:
        InputError: A nucleus lies outside of the image, or a file cannot be read.
    """
    span = window(mpp, classifier.task)
    if positions is None:
        positions = _in_pixels(read_positions(nuclei, image.path.name, span), mpp, image, nuclei)
    x, y, classes = positions.x, positions.y, classifier.classes
    has_outlines = nuclei.suffix.lower() in GEOJSON
    with (
        atomic_write(table) as new_table,
        atomic_write(geojson) as new_geojson,
        atomic_write(overlay) as new_overlay,
        open_embeddings(features) as embeddings,
    ):
        cuts = cut_all(image, y, x, mpp, classifier.task)
        crops = ((row, as_channels(crop, classifier.channels)) for row, crop in cuts)
        places = Places(np.zeros(len(x), int), mpp * y, mpp * x) if classifier.neighbours else None
        predictions = _predict(classifier, crops, len(x), embeddings, places)
        thumbnail = image.thumbnail(LONGEST)
        scale = thumbnail.shape[1] / image.width
        if has_outlines:
            members: Iterator[Feature] = (nucleus.feature for nucleus in read_nuclei(nuclei, span))
        else:
            members = map(point, map(float, x), map(float, y))
        _write_table(new_table, lambda rows: {"x": _digits(x[rows]), "y": _digits(y[rows])}, predictions, classes)
        about = {"mpp": mpp, "mpp_source": mpp_source or "given"}
        write_collection(new_geojson, _classified(members, predictions, classes), about)
        marks = predictions.labels, scale * RADIUS / mpp, classes, predictions.unsure, predictions.unlike
        save_figure(draw_overlay(thumbnail, scale * x, scale * y, *marks), new_overlay)
        if embeddings:
            outlines = (nucleus.outline for nucleus in read_nuclei(nuclei, span)) if has_outlines else None
            describe = describe_nuclei(image, x, y, predictions.labels, len(classes), mpp, span, outlines)
            write_features(features, len(x), describe, embeddings, new_table)
    return predictions


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


def _predict(
    classifier: Classifier,
    crops: Iterable[tuple[int, np.ndarray]],
    n: int,
    embeddings: Embeddings | None,
    places: Places | None = None,
) -> Predictions:
    """Classify the crops of rows 0..N-1, which may come in any order; with places: each among its neighbours."""
    probabilities, novelty = np.empty((n, len(classifier.classes)), np.float32), np.empty(n, np.float32)
    with tqdm(total=n, unit="nucleus", disable=None) as bar:
        for rows, answers in classifier.predict_all(crops):
            probabilities[rows], novelty[rows] = answers.probabilities, answers.novelty
            if embeddings:
                embeddings.write(rows, answers.embeddings)
            bar.update(len(rows))
    if places:
        probabilities = classifier.among_neighbours(probabilities, places)
    return Predictions(probabilities, classifier.sets(probabilities), novelty)


def _write_table(
    path: Path, keys: Callable[[slice], dict[str, Any]], predictions: Predictions, classes: Sequence[str]
) -> None:
    """Write the table; `keys` gives the first columns of the rows in a slice."""
    names = np.array(classes)
    with path.open("w", encoding="utf-8", newline="") as file:
        for start in range(0, len(predictions.novelty), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            part = predictions.take(rows)
            columns: dict[str, Any] = {**keys(rows), "Predicted": part.labels, "Class": names[part.labels]}
            columns |= {f"Probability_{label}": values for label, values in enumerate(part.probabilities.T)}
            columns |= {"Set": [_names(row, classes) for row in part.sets], "Unsure": part.unsure}
            columns |= {"Novelty": part.novelty, "Unlike": part.unlike}
            table = pd.DataFrame(columns)
            table.to_csv(file, header=not start, index=False, float_format="%.6g", lineterminator="\n")


def _digits(values: np.ndarray) -> list[str]:
    """Write coordinates with ten significant digits: the table's six would move a nucleus of a large slide."""
    return [f"{value:.10g}" for value in values]


def _names(members: np.ndarray, classes: Sequence[str]) -> str:
    """Name the classes of a conformal set, bool (K,)."""
    return "; ".join(name for name, member in zip(classes, members, strict=True) if member)


def _classified(features: Iterator[Feature], predictions: Predictions, classes: Sequence[str]) -> Iterator[Feature]:
    colours = class_colours(len(classes))
    for feature, row, members, novelty in zip(features, *predictions, strict=True):
        label = int(row.argmax())
        measurements = {f"Probability: {name}": float(f"{value:.6g}") for name, value in zip(classes, row, strict=True)}
        measurements["Novelty"] = float(f"{novelty:.6g}")
        properties = {
            "Set": _names(members, classes),
            "Unsure": bool(members.sum() > 1),
            "Unlike": bool(novelty > 1),
        }
        yield classified(feature, classes[label], colours[label], measurements, properties)
