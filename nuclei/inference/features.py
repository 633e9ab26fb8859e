"""What analyses of one's own start from: of every nucleus its embedding, its outline's measures, its neighbours."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from skimage.color import rgb2hed
from skimage.draw import polygon2mask
from skimage.measure import regionprops

from nuclei.data.tissue_image import TissueImage
from nuclei.files import atomic_write

ROWS_AT_ONCE = 2**14  # of a row group: 34 MB of embeddings of ResNet18
NEAR = 50.0  # microns, within which neighbours are counted
MEASURES = ("area_um2", "eccentricity", "haematoxylin")

Describe = Callable[[slice], dict[str, Any]]


class Embeddings:
    """Rows of float32 on disk: written in any order, read in theirs."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.width = 0

    def write(self, rows: Sequence[int], values: np.ndarray) -> None:
        """Write `values`, float32 (N, D), as these rows."""
        self.width = values.shape[1]
        for row, value in zip(rows, values, strict=True):
            self.file.seek(4 * self.width * row)
            self.file.write(value.tobytes())

    def read(self, rows: slice) -> np.ndarray:
        """Return the rows from `rows.start` to `rows.stop`, float32 (N, D)."""
        self.file.seek(4 * self.width * rows.start)
        content = self.file.read(4 * self.width * (rows.stop - rows.start))
        return np.frombuffer(content, np.float32).reshape(-1, self.width)


@contextmanager
def open_embeddings(features: Sequence[Path]) -> Iterator[Embeddings | None]:
    """Give a place for embeddings beside the files that they are for, None where no such file is asked for."""
    if not features:
        yield None
        return
    with tempfile.TemporaryFile(dir=features[0].parent) as file:
        yield Embeddings(file)


def describe_nuclei(
    image: TissueImage,
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    classes: int,
    mpp: float,
    span: float,
    outlines: Iterator[tuple[np.ndarray, ...]] | None,
) -> Describe:
    """Return what describes nuclei, slice after slice from the first one.

    Args:
        image: The nuclei's.
        x: float64 (N,), pixels.
        y: Likewise.
        labels: Predicted, int (N,).
        classes: Their number.
        mpp: Microns per pixel.
        span: Pixels that a crop spans.
        outlines: Of all nuclei in their order, see `Nucleus.outline`; None: there are none.

    Returns:
        Of a slice of rows returns columns: x, y; with outlines, area_um2 (square microns), eccentricity (0: round, to
        1) and haematoxylin (mean of scikit-image's colour deconvolution), NaN for points; neighbours_0 and so on, how
        many other nuclei of each predicted class lie within 50 microns.
    """
    places = np.column_stack([x, y]) * mpp
    trees = [cKDTree(places[labels == label]) for label in range(classes)]

    def describe(rows: slice) -> dict[str, Any]:
        columns: dict[str, Any] = {"x": x[rows], "y": y[rows]}
        if outlines is not None:
            measured = [measure(image, outline, mpp, span) for outline in islice(outlines, len(x[rows]))]
            columns |= zip(MEASURES, np.array(measured).T, strict=True)
        for label, tree in enumerate(trees):
            counts = tree.query_ball_point(places[rows], NEAR, return_length=True) if tree.n else 0
            columns[f"neighbours_{label}"] = (counts - (labels[rows] == label)).astype(np.int32)  # not itself
        return columns

    return describe


def measure(image: TissueImage, outline: tuple[np.ndarray, ...], mpp: float, span: float) -> tuple[float, float, float]:
    """Return area in square microns, eccentricity and mean haematoxylin of the pixels within an outline.

    What lies further from its middle than half a crop, or outside of the image, counts for the area alone.

    Args:
        image: The nucleus'.
        outline: See `Nucleus.outline`.
        mpp: Microns per pixel.
        span: Pixels that a crop spans.

    Returns:
        NaN where no pixel's middle lies within the outline.

    Source: Ruifrok & Johnston 2001, "Quantification of histochemical staining by color deconvolution".
    """
    if not outline:
        return (np.nan,) * 3
    vertices = np.concatenate(outline)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    low = np.maximum(np.floor(np.maximum(vertices.min(axis=0), middle - span / 2)), 0).astype(int)
    limit = np.minimum(vertices.max(axis=0), middle + span / 2)
    high = np.minimum(np.ceil(limit), (image.width, image.height)).astype(int)
    if (high <= low).any():
        return (np.nan,) * 3
    shape = high[1] - low[1], high[0] - low[0]
    mask = np.zeros(shape, bool)
    for ring in outline:
        mask |= polygon2mask(shape, (ring - low)[:, ::-1] - 0.5)  # pixel 0 reaches from 0 to 1: its middle is at 0.5
    if not mask.any():
        return (np.nan,) * 3
    haematoxylin = rgb2hed(image.read(int(low[1]), int(low[0]), int(high[1]), int(high[0])))[..., 0]
    (region,) = regionprops(mask.astype(np.uint8), haematoxylin)
    area = sum(_area(ring - ring[0]) for ring in outline)
    return area * mpp**2, region.eccentricity, region.intensity_mean


def _area(ring: np.ndarray) -> float:
    """Return the area within a closed ring, float64 (M, 2), that begins near the origin."""
    x, y = ring.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def write_features(paths: Sequence[Path], n: int, describe: Describe, embeddings: Embeddings, table: Path) -> None:
    """Write Parquet, a row per nucleus in the order of the table, and maybe AnnData.

    Args:
        paths: Of the Parquet file and, where wanted, of the AnnData file (.h5ad), whose X are the embeddings, obs the
            table and the other features, obsm["spatial"] x and y.
        n: Number of rows.
        describe: Returns the columns of a slice of rows; embedding_0 and so on follow.
        embeddings: Of all rows.
        table: Of the predictions, as it was written.
    """
    with ExitStack() as stack:
        parquet, *others = [stack.enter_context(atomic_write(path)) for path in paths]
        _write_parquet(parquet, n, describe, embeddings)
        for path in others:
            _write_anndata(path, n, parquet, embeddings, table)


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, n, ROWS_AT_ONCE))


def _write_parquet(path: Path, n: int, describe: Describe, embeddings: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        writer = None
        for rows in _slices(n):
            values = embeddings.read(rows)
            columns = describe(rows) | {f"embedding_{i}": column for i, column in enumerate(values.T.copy())}
            part = pa.table(columns)
            writer = writer or stack.enter_context(pq.ParquetWriter(path, part.schema))
            writer.write_table(part)


def _write_anndata(path: Path, n: int, parquet: Path, embeddings: Embeddings, table: Path) -> None:
    import anndata
    import h5py
    import pyarrow.parquet as pq

    names = [name for name in pq.read_schema(parquet).names if not name.startswith("embedding_")]
    # anndata does not write the texts that pandas 3 infers, and pandas warns of its way not to.
    with warnings.catch_warnings(action="ignore"), pd.option_context("future.infer_string", False):
        features = pd.read_parquet(parquet, columns=names)
        obs = pd.read_csv(table, dtype={"Filename": object}, keep_default_na=False)
        obs = pd.concat([obs, features.drop(columns=obs.columns, errors="ignore")], axis=1)
        obs.index = pd.Index([str(row) for row in range(n)], dtype=object)
        var = pd.DataFrame(index=pd.Index([f"embedding_{i}" for i in range(embeddings.width)], dtype=object))
        spatial = {"spatial": features[["x", "y"]].to_numpy()} if "x" in features else {}
        anndata.AnnData(obs=obs, var=var, obsm=spatial).write_h5ad(path)
    with h5py.File(path, "r+") as file:  # piece by piece, as it may not fit into memory
        file.pop("X", None)
        values = file.create_dataset("X", (n, embeddings.width), np.float32)
        values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for rows in _slices(n):
            values[rows] = embeddings.read(rows)
