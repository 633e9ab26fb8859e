"""Where the nuclei of a tile or slide are, found tile by tile: borders neither lose nor double one."""

import csv
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours, regionprops
from tqdm import tqdm

from nuclei.data.geojson import Feature, write_features
from nuclei.data.images import open_image
from nuclei.data.tissue_image import TissueImage
from nuclei.errors import InputError, warn
from nuclei.files import atomic_write, require_distinct
from nuclei.inference.detectors import Detector, built_in_detector, load_detector
from nuclei.inference.haematoxylin import reduction, slide_threshold, tissue_mask
from nuclei.inference.record import require_results_of, sources, write_record

DIAMETER = (3.0, 20.0)  # microns, of circles of the nuclei's areas
FINEST, COARSEST = 0.05, 1.0  # microns per pixel
LONGEST = 2.0  # length of a nucleus, in largest diameters; tiles overlap as far
SMALLEST = 512  # pixels a side of a tile's core
HEADER = ("x", "y", "Area_um2")


class Outline(NamedTuple):
    """A nucleus.

    Attributes:
        x: Pixels of the full resolution from the left edge, of its centroid.
        y: Likewise, from the top.
        area: Square microns.
        ring: Closed, x and y in pixels, float64 (M, 2).
    """

    x: float
    y: float
    area: float
    ring: np.ndarray


class Plan(NamedTuple):
    """All that decides which nuclei of an image are found.

    Attributes:
        detector: What finds them in a tile.
        tissue: bool (h, w), where they are looked for.
        mpp: Microns per pixel.
        diameter: Of circles of their areas, microns, from and to.
        about: What a record tells of it.
    """

    detector: Detector
    tissue: np.ndarray
    mpp: float
    diameter: tuple[float, float]
    about: dict[str, Any]


def detect_in_slide(
    slide: Path, out: Path, mpp: float | None, name: str | None, diameter: tuple[float, float]
) -> tuple[int, list[Path]]:
    """Find the nuclei of a tile or slide and write OUT/SLIDE_nuclei.csv, .geojson and _run.json, which tells of them.

    Args:
        slide: The image.
        out: Folder of the results.
        mpp: See `plan_detection`, as `name` and `diameter`.
        name: Of the detector.
        diameter: Of nuclei.

    Returns:
        How many there are, and the files.

    Raises:
        InputError: A result may not be written, and as `plan_detection` and `write_nuclei`.
    """
    paths = [out / f"{slide.stem}_nuclei{end}" for end in (".csv", ".geojson", "_run.json")]
    table, geojson, record = paths
    require_distinct(paths, [slide])
    require_results_of(paths, slide)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is reported here, or does no harm
    with atomic_write(record) as temporary, open_image(slide) as image:
        plan = plan_detection(image, mpp, name, diameter)
        count = write_nuclei(image, plan, geojson, table)
        write_record(temporary, sources(slide, None, [], {"mpp": mpp}), plan.about, [table, geojson])
    return count, paths


def plan_detection(
    image: TissueImage, mpp: float | None = None, name: str | None = None, diameter: tuple[float, float] = DIAMETER
) -> Plan:
    """Look at the whole of an image before its nuclei are detected.

    Args:
        image: The tile or slide.
        mpp: Microns per pixel; None: what the image tells.
        name: Of the detector, FILE.py:FUNCTION; None: the built-in one.
        diameter: See `Plan`.

    Raises:
        InputError: The resolution is unknown or no microscope's, or there is no tissue.
    """
    known, source = (mpp, "--mpp") if mpp else (image.mpp, image.mpp_source)
    if not known:
        raise InputError(f"{image.path}: does not tell its resolution: give --mpp, microns per pixel")
    if not FINEST <= known <= COARSEST:
        raise InputError(
            f"{image.path}: {known:.3g} microns per pixel, expected {FINEST} to {COARSEST:g} to find nuclei: see --mpp"
        )
    if source.startswith("an objective"):
        warn(f"{image.path} tells {source} alone: taken for {known:.3g} microns per pixel; see --mpp")
    detector = load_detector(name) if name else None
    tissue = tissue_mask(image, known)
    if not tissue.any():
        raise InputError(f"{image.path}: no tissue in it: expected an image in the colours of H&E")
    detector = detector or built_in_detector(slide_threshold(image, known, tissue))
    about = {"mpp": known, "mpp_source": source, **detector.about, "diameter": list(diameter)}
    return Plan(detector, tissue, known, diameter, about)


def detect_nuclei(image: TissueImage, plan: Plan) -> Iterator[Outline]:
    """Find the nuclei of an image.

    Tiles overlap, and a nucleus belongs to the tile whose core holds its centroid. What is longer than the overlap is
    no nucleus. One tile is held at a time.

    Args:
        image: The tile or slide.
        plan: As `plan_detection` makes it.

    Yields:
        The nuclei, tile after tile.
    """
    step = reduction(plan.mpp)  # the averaged squares are those of the whole image, not of a tile
    overlap = -(-round(LONGEST * plan.diameter[1] / plan.mpp) // step) * step
    tiles = list(_cores(image, plan.tissue, step))
    for top, left, bottom, right in tqdm(tiles, unit="tile", disable=None):
        y, x = max(top - overlap, 0), max(left - overlap, 0)
        window = image.read(y, x, min(bottom + overlap, image.height), min(right + overlap, image.width))
        for nucleus in _outlines(plan.detector.labels(window, plan.mpp), (y, x), plan):
            inside = top <= nucleus.y < bottom and left <= nucleus.x < right
            if inside and _holds(plan.tissue, nucleus, image):
                yield nucleus


def _cores(image: TissueImage, tissue: np.ndarray, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield top, left, bottom and right of the tiles that have tissue; together they cover the image."""
    rows, columns = (-(-max(side, SMALLEST) // step) * step for side in image.block)
    scale = tissue.shape[0] / image.height, tissue.shape[1] / image.width
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        down = slice(int(top * scale[0]), int(np.ceil(bottom * scale[0])))
        for left in range(0, image.width, columns):
            right = min(left + columns, image.width)
            if tissue[down, int(left * scale[1]) : int(np.ceil(right * scale[1]))].any():
                yield top, left, bottom, right


def _holds(tissue: np.ndarray, nucleus: Outline, image: TissueImage) -> bool:
    row, column = int(nucleus.y / image.height * len(tissue)), int(nucleus.x / image.width * tissue.shape[1])
    return bool(tissue[row, column])


def _outlines(labels: np.ndarray, corner: tuple[int, int], plan: Plan) -> Iterator[Outline]:
    """Yield the regions that may be nuclei, traced at about half a micron; corner: y and x of the labels' corner."""
    step = reduction(plan.mpp)
    micron = 1 / (step * plan.mpp)  # pixels of the tracing
    smallest, largest = (np.pi * (diameter * micron) ** 2 / 4 for diameter in plan.diameter)
    for region in regionprops(np.ascontiguousarray(labels[::step, ::step])):
        top, left, bottom, right = region.bbox
        if max(bottom - top, right - left) > LONGEST * plan.diameter[1] * micron:
            continue
        mask = np.pad(ndimage.binary_fill_holes(region.image), 1)
        area = int(mask.sum())
        if not smallest <= area <= largest:
            continue
        y, x = corner[0] // step + top - 1, corner[1] // step + left - 1  # of the padded mask
        rows, columns = mask.nonzero()
        contour = max(find_contours(mask, 0.5), key=len)[:-1:2, ::-1]  # a vertex about every 0.7 microns
        ring = step * (np.concatenate([contour, contour[:1]]) + np.array([x + 0.5, y + 0.5]))
        # Sums of integers, divided once: the same digits in whatever tile it lies.
        middle_x = step * ((int(columns.sum()) + area * x) / area + 0.5)
        middle_y = step * ((int(rows.sum()) + area * y) / area + 0.5)
        yield Outline(middle_x, middle_y, area * (step * plan.mpp) ** 2, ring)


def write_nuclei(image: TissueImage, plan: Plan, geojson: Path, table: Path | None = None) -> int:
    """Find the nuclei of an image and write them, all files or none.

    Args:
        image: The tile or slide.
        plan: As `plan_detection` makes it.
        geojson: To be written: a detection of QuPath's with its outline for each nucleus.
        table: To be written, CSV: x and y (pixels of the full resolution) and Area_um2. None: no table.

    Returns:
        How many there are.

    Raises:
        InputError: There is none, or the image cannot be read.
    """
    count = 0
    with ExitStack() as stack:
        new_geojson = stack.enter_context(atomic_write(geojson))
        writer = csv.writer(stack.enter_context(_rows(table)), lineterminator="\n") if table else None
        if writer:
            writer.writerow(HEADER)

        def features() -> Iterator[Feature]:
            nonlocal count
            for nucleus in detect_nuclei(image, plan):
                count += 1
                if writer:
                    writer.writerow((f"{nucleus.x:.10g}", f"{nucleus.y:.10g}", f"{nucleus.area:.6g}"))
                yield _feature(nucleus)

        write_features(new_geojson, features(), plan.about)
        if not count:
            low, high = plan.diameter
            raise InputError(
                f"{image.path}: no nucleus found of {low:g} to {high:g} microns at {plan.mpp:.3g} microns per pixel: "
                "is that its resolution, and is it H&E?"
            )
    return count


@contextmanager
def _rows(table: Path) -> Iterator[TextIO]:
    """Open the table, which is there when all is written."""
    with atomic_write(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def _feature(nucleus: Outline) -> Feature:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [nucleus.ring.tolist()]},
        "properties": {"objectType": "detection", "measurements": {"Area µm^2": float(f"{nucleus.area:.6g}")}},
    }


@contextmanager
def detected(path: Path, mpp: float | None, name: str | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Find the nuclei of an image; give a GeoJSON file of them that is there within the context, and what made it."""
    with TemporaryDirectory() as folder:
        geojson = Path(folder) / f"{path.stem}_nuclei.geojson"
        with open_image(path) as image:
            plan = plan_detection(image, mpp, name)
            count = write_nuclei(image, plan, geojson)
        warn(f"{path}: larger than a crop, and without --nuclei: {count:,} nuclei were detected in it")
        yield geojson, plan.about
