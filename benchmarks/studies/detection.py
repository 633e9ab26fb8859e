"""How many nuclei does `nuclei detect` find, and how many of its nuclei are none?

`python -m benchmarks.studies.detection --raw FOLDER`, five minutes on two cores; without `--raw`, one.

On drawn tissue every nucleus is known: precision, recall and F1 of nuclei that are matched one to one, 3 microns apart
at most. On mosaics of crops that were cut round nuclei (see `nuclei.splitting.mosaic`) only these nuclei are known:
recall, and how many were detected for each of them. At a mosaic's holes nuclei are cut in half.
"""

import argparse
import tempfile
from collections.abc import Iterator
from math import nan
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from benchmarks.markdown import markdown_table
from nuclei.crops import open_crops
from nuclei.data.resolution import Resolution
from nuclei.data.synthetic import tissue
from nuclei.data.synthetic.canvas import TILE
from nuclei.data.tissue_image import from_array
from nuclei.data.unpack import unpack
from nuclei.inference.detect import detect_nuclei, plan_detection
from nuclei.splitting.mosaic import mosaic
from nuclei.splitting.overlap import groups, overlapping_pairs
from nuclei.task import MPP

NEAR = 3.0  # microns
STAINS = 6
LEAST = 200  # crops of a mosaic


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.detection", description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with the four files, of crops that were cut from tiles")
    raw = parser.parse_args().raw
    rows = []
    for cancer in (False, True):
        counts = [measure(*draw(stain, cancer)) for stain in range(STAINS)]
        rows.append(row(f"drawn tissue, {'cancer' if cancer else 'normal'}", counts, every=True))
    if raw:
        with tempfile.TemporaryDirectory() as folder:
            counts = [measure(*known) for known in mosaics(raw, Path(folder))]
        rows.append(row(f"mosaics of {raw.name}", counts, every=False))
    titles = ["", "images", "known nuclei", "detected", "detected per mm²", "precision", "recall", "F1"]
    print(markdown_table(titles, rows))


def draw(stain: int, cancer: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw four tiles of a stain as one image; return it and y, x of all its nuclei, without those that it cuts."""
    look = tissue.draw_stain(np.random.default_rng([0, stain]))
    pixels, nuclei = np.empty((2 * TILE, 2 * TILE, 3), np.uint8), []
    with patch.object(tissue, "FIBROBLAST", nan):  # equals nothing, and so fibroblasts are not left out
        for y, x in np.ndindex(2, 2):
            tile, table = tissue.draw_tile(np.random.default_rng([1, stain, cancer, y, x]), look, cancer)
            corner = np.array([y, x]) * len(tile)
            pixels[corner[0] : corner[0] + len(tile), corner[1] : corner[1] + len(tile)] = tile
            nuclei.append(table[["y", "x"]].to_numpy() + corner)
    return pixels, np.concatenate(nuclei)


def mosaics(raw: Path, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield mosaics of crops, and y, x of their middles."""
    unpack(raw, folder / "crops", channels=3, classes=None)
    parts = [open_crops(folder / "crops", part) for part in ("train", "test")]
    pairs = overlapping_pairs(*parts)
    crops = np.concatenate(parts)
    group = groups(pairs, len(crops))
    for number in np.flatnonzero(np.bincount(group) >= LEAST):
        laid = mosaic(crops, pairs, np.flatnonzero(group == number), longest=10**6)
        yield laid.canvas, np.column_stack([laid.y, laid.x]) + crops.shape[1] // 2


def measure(pixels: np.ndarray, known: np.ndarray) -> tuple[int, int, int, float]:
    """Return how many nuclei are known, detected, and matched, and square millimetres."""
    image = from_array(Path("drawn"), pixels, Resolution(MPP, "drawn"))
    detected = np.array([(nucleus.y, nucleus.x) for nucleus in detect_nuclei(image, plan_detection(image))])
    covered = int((pixels < 255).any(axis=2).sum())  # holes are white
    return len(known), len(detected), matched(detected, known), covered * (MPP / 1000) ** 2


def matched(detected: np.ndarray, known: np.ndarray) -> int:
    """Return how many can be matched one to one (Hopcroft and Karp 1973)."""
    near = cKDTree(detected).sparse_distance_matrix(cKDTree(known), NEAR / MPP, output_type="coo_matrix")
    graph = csr_array((np.ones(near.nnz), (near.row, near.col)), shape=near.shape)
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def row(title: str, counts: list[tuple[int, int, int, float]], every: bool) -> list[str]:
    """Word the sums over images; every: whether all nuclei are known."""
    known, detected, both, area = (sum(values) for values in zip(*counts, strict=True))
    precision, recall = both / detected, both / known
    scores = [f"{precision:.3f}", f"{recall:.3f}", f"{2 * precision * recall / (precision + recall):.3f}"]
    if not every:
        scores[0] = scores[2] = ""
    return [title, f"{len(counts)}", f"{known:,}", f"{detected:,}", f"{detected / area:,.0f}", *scores]


if __name__ == "__main__":
    main()
