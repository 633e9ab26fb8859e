"""Your own slides or tiles, and the points or outlines that were labelled on them, turned into labelled crops."""

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from sys import intern
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from nuclei.data.competition import assign_roles, competition_writer
from nuclei.data.cut import cut_all, window
from nuclei.data.geojson import read_nuclei
from nuclei.data.images import open_image, require_utf8
from nuclei.data.positions import GEOJSON, MOST_IMAGES, choose_image, find_positions, image_stem, open_table
from nuclei.data.tables import MOST_CROPS
from nuclei.errors import InputError, show
from nuclei.task import LONGEST_CLASS, MOST_CLASSES, Task, is_class_name

LABELS = ("label", "class", "classification")  # names of the column of a table, in any case
UNLABELLED = "without a label"


class Settings(NamedTuple):
    """How crops are cut, and what becomes of them.

    Attributes:
        side: Pixels per side of a crop.
        mpp: Microns per pixel of a crop.
        slide_mpp: Microns per pixel of all slides; None: what each tells.
        group: Column of the table that names the patient, or what else belongs together; None: the slide.
        border: What becomes of crops that reach beyond their slide: mirror what is missing, or skip them.
        test_share: Share of the crops of each class that becomes test.zip, which is predicted and not scored.
        seed: Of what is drawn for it.
        classes: Names; another label is an error. None: all labels that occur.
    """

    side: int
    mpp: float
    slide_mpp: float | None = None
    group: str | None = None
    border: Literal["mirror", "skip"] = "mirror"
    test_share: float = 0.2
    seed: int = 0
    classes: tuple[str, ...] | None = None


class Imported(NamedTuple):
    """What was written.

    Attributes:
        table: One row per crop: slide, label (a name), group, role, number.
        classes: The names, by the alphabet.
        notes: What was left out or mirrored, a line each.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    notes: list[str]


class Labelled(NamedTuple):
    """The labelled nuclei of a slide: some 50 bytes of memory for each.

    Attributes:
        unit: What `numbers` count in the file: line or nucleus.
        microns: Whether x and y are in microns, not pixels.
        numbers: Of each nucleus, int64.
        x: float64.
        y: float64.
        labels: As written.
        groups: "" where none is told.
    """

    unit: str
    microns: bool
    numbers: array
    x: array
    y: array
    labels: list[str]
    groups: list[str]

    @classmethod
    def empty(cls, unit: str, microns: bool = False) -> "Labelled":
        """Return what has no nucleus yet."""
        return cls(unit, microns, array("q"), array("d"), array("d"), [], [])

    def takes(self, number: int, x: float, y: float, label: str, group: str) -> bool:
        """Add a nucleus, if it has a label; say whether it has."""
        if label:
            self.numbers.append(number)
            self.x.append(x)
            self.y.append(y)
            self.labels.append(intern(label))
            self.groups.append(intern(group))
        return bool(label)


def import_points(slides: Sequence[Path], points: Sequence[Path], out: Path, settings: Settings) -> Imported:
    """Cut a crop around every labelled nucleus; write the competition's four files, groups.csv and positions.csv.

    Args:
        slides: Slides or tiles.
        points: A file for each slide, of the same name but for the ending, or a table of all with a column Image; see
            `nuclei.data.positions` for tables and `nuclei.data.geojson` for GeoJSON, whose classifications are labels.
        out: New folder.
        settings: How.

    Raises:
        InputError: Names the file and the row; nothing is written.
    """
    for slide in slides:
        require_utf8(slide.name, str(slide.parent))
    task, notes, tables = Task(side=settings.side, mpp=settings.mpp), [], []
    files = find_positions(slides, points)
    left_out, beyond = Counter[str](), 0
    labelled: dict[Path, Labelled] = {}
    for number, (slide, file) in enumerate(files.items()):
        if file.suffix.lower() not in GEOJSON and slide not in labelled:  # read once, for all of its slides
            labelled = _read_table(file, [other for other in files if files[other] == file], settings, left_out)
        with open_image(slide) as image:
            mpp = settings.slide_mpp or image.mpp
            if not mpp:
                raise InputError(f"{slide}: does not tell its resolution: give --slide-mpp, microns per pixel")
            span = window(mpp, task)
            rows = labelled.pop(slide, None) or _read_geojson(file, settings, span, left_out)
            if not rows.labels:
                raise InputError(
                    f"{file}: no labelled nucleus in it: expected a classification, or a column label, of some"
                )
            columns = {"x": np.array(rows.x), "y": np.array(rows.y), "label": rows.labels, "group": rows.groups}
            table = pd.DataFrame(columns)
            if rows.microns:
                table[["x", "y"]] /= mpp
            outside = (table.x < 0) | (table.y < 0) | (table.x > image.width) | (table.y > image.height)
            if outside.any():
                first = table[outside].iloc[0]
                raise InputError(
                    f"{file}: {rows.unit} {rows.numbers[outside.argmax()]} at x {first.x:.10g}, y {first.y:.10g} "
                    f"(and {outside.sum() - 1} more) lies outside of {slide} ({image.width}x{image.height} pixels): "
                    "are these its nuclei, in pixels of its full resolution?"
                )
            near = (np.minimum(table.x, image.width - table.x) < span / 2) | (
                np.minimum(table.y, image.height - table.y) < span / 2
            )
        beyond += int(near.sum())
        table = table[~near] if settings.border == "skip" else table
        tables.append(table.assign(slide=number, mpp=mpp, group=table.group.where(table.group != "", slide.stem)))
        if sum(map(len, tables)) > MOST_CROPS:
            raise InputError(f"{file}: more than {MOST_CROPS:,} labelled nuclei in all: hand in fewer")
    nuclei = pd.concat(tables, ignore_index=True)
    if nuclei.empty:
        raise InputError(f"{points[0]}: all nuclei lie at a border, nearer than half a crop: leave out --border skip")
    nuclei["label"], classes = _classes(nuclei, settings.classes, points)
    notes += [f"left out: {count:,} {kind}" for kind, count in left_out.items()]
    if beyond:
        done = "left out" if settings.border == "skip" else "mirrored at it"
        notes.append(f"{beyond:,} crops reach beyond the border of their slide: {done}")
    other_name = len(slides) == len(points) == 1 and slides[0].stem.casefold() != points[0].stem.casefold()
    if other_name and not _names_images(points[0]):
        notes.append(f"{points[0]} has another name than {slides[0]}: are these its nuclei?")
    resolutions = sorted({float(f"{mpp:.3g}") for mpp in nuclei.mpp})
    if len(resolutions) > 1:
        listed = ", ".join(map(str, resolutions))
        notes.append(f"slides of {listed} microns per pixel: all crops are brought to {settings.mpp:g}")
    nuclei["image"] = nuclei.slide.map(dict(enumerate(slide.name for slide in slides)))
    table = assign_roles(nuclei, settings.test_share, settings.seed)
    with competition_writer(out, table) as add, tqdm(total=len(table), unit="crop", disable=None) as bar:
        for number, slide in enumerate(files):
            rows = table[table.slide == number]
            if len(rows):
                with open_image(slide) as image:
                    y, x, mpp = rows.y.to_numpy(), rows.x.to_numpy(), float(rows.mpp.iloc[0])
                    for row, crop in cut_all(image, y, x, mpp, task):
                        add(rows.role.iloc[row], int(rows.number.iloc[row]), crop)
                        bar.update()
    return Imported(table.drop(columns=["x", "y", "mpp", "image"]), classes, notes)


def _names_images(file: Path) -> bool:
    """Whether a file of nuclei says itself which image they are of."""
    if file.suffix.lower() in GEOJSON:
        return False
    with open_table(file) as (columns, _):
        return columns.image is not None


def _read_geojson(file: Path, settings: Settings, span: float, left_out: Counter[str]) -> Labelled:
    """Read the labelled nuclei of a slide."""
    if settings.group is not None:
        raise InputError(f"{file}: --group names a column of a table: leave it out, and each slide is a group")
    rows = Labelled.empty("nucleus")
    for number, nucleus in enumerate(read_nuclei(file, span, left_out), start=1):
        if rows.takes(number, nucleus.x, nucleus.y, nucleus.label, ""):
            _require_few(len(rows.labels), file)
        else:
            left_out[UNLABELLED] += 1
    return rows


def _read_table(file: Path, slides: Sequence[Path], settings: Settings, left_out: Counter[str]) -> dict[Path, Labelled]:
    """Read the labelled nuclei of slides; of rows of other images, of which there may be any number, none is held."""
    stems = {image_stem(slide.name) for slide in slides}
    images: dict[str, Labelled | None] = {}  # None: of no slide that was asked for
    count = 0
    with open_table(file) as (columns, read):
        names = [name for name in columns.header if name in LABELS]
        if not names:
            raise InputError(f"{file}: no column of labels: call it label, class or classification")
        if len(names) > 1:
            raise InputError(f"{file}: columns {' and '.join(names)}: keep the one with the labels")
        wanted = [columns.header.index(names[0])]
        if settings.group is not None:
            group = settings.group.strip().lower()
            if columns.header.count(group) != 1:
                listed = show(",".join(columns.header))
                raise InputError(f"{file}: expected one column {show(settings.group)} (--group), found {listed}")
            wanted.append(columns.header.index(group))
        for row in read(left_out, wanted):
            if row.image not in images:
                if len(images) == MOST_IMAGES:
                    raise InputError(f"{file}: rows of more than {MOST_IMAGES:,} images: export those of your slides")
                is_wanted = columns.image is None or image_stem(row.image) in stems
                images[row.image] = Labelled.empty("line", columns.microns) if is_wanted else None
            rows = images[row.image]
            if rows is None:
                continue
            if settings.group is not None and not row.texts[1]:
                raise InputError(f"{row.where}: no {settings.group}: every nucleus needs one")
            if rows.takes(int(row.where.rpartition(" ")[2]), row.x, row.y, row.texts[0], "".join(row.texts[1:])):
                count += 1
                _require_few(count, file)
            else:
                left_out[UNLABELLED] += 1
    chosen = {
        slide: images["" if columns.image is None else choose_image(file, list(images), slide.name)]
        for slide in slides
        if images
    }
    return {slide: chosen.get(slide) or Labelled.empty("line") for slide in slides}


def _require_few(count: int, file: Path) -> None:
    if count > MOST_CROPS:
        raise InputError(f"{file}: more than {MOST_CROPS:,} nuclei: hand in fewer")


def _classes(
    nuclei: pd.DataFrame, given: tuple[str, ...] | None, points: Sequence[Path]
) -> tuple[pd.Series, tuple[str, ...]]:
    """Return the labels in one spelling each, and all classes. Raises InputError where a label is no class."""
    spellings = {name.casefold(): name for name in given or ()}
    for name in nuclei.label:
        if name.casefold() not in spellings:
            if given:
                raise InputError(
                    f"{points[0]}: a label {show(name)}, expected one of {', '.join(given)}: see --classes"
                )
            if not is_class_name(name):
                raise InputError(
                    f"{points[0]}: a label {show(name)}, expected a name of {LONGEST_CLASS} letters at most, without a "
                    "semicolon: rename it"
                )
            spellings[name.casefold()] = name
    classes = tuple(given) if given else tuple(spellings[key] for key in sorted(spellings))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{points[0]}: {len(classes)} classes, expected 2 to {MOST_CLASSES}: label more, or see --classes"
        )
    labels = nuclei.label.map(lambda name: spellings[name.casefold()])
    for name, count in labels.value_counts().reindex(classes, fill_value=0).items():
        if count < 2:
            raise InputError(f"{points[0]}: {count} nuclei of class {name}, expected two or more: label more")
    return labels, classes
