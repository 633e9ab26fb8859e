"""How many nuclei does `nuclei detect` find, and how many of its nuclei are none?

`python -m benchmarks.studies.detection --raw FOLDER`, two minutes on two cores; without `--raw`, one.

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
CUT = 3.0  # microns from the edge of a drawn tile
STAINS = 6
LEAST = 210  # crops of a mosaic: 25 of the competition's


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.detection", description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with the four files, of crops that were cut from tiles")
    raw = parser.parse_args().raw
    rows = []
    for cancer in (False, True):
        counts = [measure(*draw(stain, cancer), tile=TILE) for stain in range(STAINS)]
        rows.append(row(f"drawn tissue, {'cancer' if cancer else 'normal'}", counts, every=True))
    if raw:
        with tempfile.TemporaryDirectory() as folder:
            counts = [measure(*known) for known in mosaics(raw, Path(folder))]
        rows.append(row(f"mosaics of {raw.name}", counts, every=False))
    titles = ["", "images", "known nuclei", "detected", "detected per mm²", "precision", "recall", "F1"]
    print(markdown_table(titles, rows))


def draw(stain: int, cancer: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw four tiles of a stain as one image; return it and y, x of all its nuclei."""
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
    unpack(raw, folder / "crops", channels=3)
    parts = [open_crops(folder / "crops", part) for part in ("train", "test")]
    pairs = overlapping_pairs(*parts)
    crops = np.concatenate(parts)
    group = groups(pairs, len(crops))
    for number in np.flatnonzero(np.bincount(group) >= LEAST):
        laid = mosaic(crops, pairs, np.flatnonzero(group == number), longest=10**6)
        yield laid.canvas, np.column_stack([laid.y, laid.x]) + crops.shape[1] // 2


def measure(pixels: np.ndarray, known: np.ndarray, tile: int = 0) -> np.ndarray:
    """Return how many are known, of these detected, detected, of these known, and square millimetres.

    tile: pixels a side of the tiles of a drawn image; nuclei at their edges, which are cut, are not counted.
    """
    image = from_array(Path("drawn"), pixels, Resolution(MPP, "drawn"))
    detected = np.array([(nucleus.y, nucleus.x) for nucleus in detect_nuclei(image, plan_detection(image))])
    partner = match(detected, known)
    both = np.isin(np.arange(len(known)), partner), partner >= 0
    whole = [
        np.abs((points + tile / 2) % tile - tile / 2).min(axis=1) > CUT / MPP if tile else np.ones(len(points), bool)
        for points in (known, detected)
    ]
    covered = int((pixels < 255).any(axis=2).sum())  # holes are white
    counts = [count for inside, is_matched in zip(whole, both, strict=True) for count in (inside, inside & is_matched)]
    return np.array([*(count.sum() for count in counts), covered * (MPP / 1000) ** 2, len(detected)])


def match(detected: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which known nucleus each of the detected has, -1 for none; as many as possible have one.

    Source: Hopcroft and Karp 1973, as in SciPy.
    """
    near = cKDTree(detected).sparse_distance_matrix(cKDTree(known), NEAR / MPP, output_type="coo_matrix")
    graph = csr_array((np.ones(near.nnz), (near.row, near.col)), shape=near.shape)
    return maximum_bipartite_matching(graph, perm_type="column")


def row(title: str, counts: list[np.ndarray], every: bool) -> list[str]:
    """Word the sums over images; every: whether all nuclei are known."""
    known, known_detected, detected, detected_known, area, all_detected = np.sum(counts, axis=0)
    precision, recall = detected_known / detected, known_detected / known
    scores = [f"{precision:.3f}", f"{recall:.3f}", f"{2 * precision * recall / (precision + recall):.3f}"]
    if not every:
        scores[0] = scores[2] = ""
    return [title, f"{len(counts)}", f"{known:,.0f}", f"{detected:,.0f}", f"{all_detected / area:,.0f}", *scores]


if __name__ == "__main__":
    main()
