"""Crops that share pixels: every pair against the hashed windows."""

from itertools import combinations

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from benchmarks.measure import Implementation, Workload
from benchmarks.workspace import Workspace
from nuclei.crops import open_crops
from nuclei.splitting.overlap import overlapping_pairs

CROPS = 100  # all pairs of more would take too long
LEAST = 16 * 16  # pixels: what counts as an overlap


def naive(workspace: Workspace) -> Workload:
    """Compare each pair of crops at every offset: differences squared and summed over the overlap, by FFT.

    Only upright ones: the flips and turns that this project finds too would take eight times as long.
    """
    crops = _some(workspace).astype(np.float64).mean(axis=3) - 128  # grey is enough: a match is verified anyway
    height, width = crops.shape[1:]
    shape = [next_fast_len(2 * size) for size in (height, width)]

    def transformed(images: np.ndarray, mirrored: bool = False) -> np.ndarray:
        return rfft2(images[:, ::-1, ::-1] if mirrored else images, shape)

    def run() -> int:
        ones = np.ones((1, height, width))
        plain, squares, mask = transformed(crops), transformed(crops**2), transformed(ones)[0]
        mirror, mirror_squares = transformed(crops, True), transformed(crops**2, True)
        area = irfft2(mask * transformed(ones, True)[0], shape).round()
        enough = area >= LEAST
        found = 0
        for first, second in combinations(range(len(crops)), 2):
            spectrum = squares[first] * mask + mask * mirror_squares[second] - 2 * plain[first] * mirror[second]
            found += bool((irfft2(spectrum, shape)[enough] < 1e-3 * area[enough]).any())
        return len(crops)

    return Workload(run)


def run_project(workspace: Workspace) -> Workload:
    crops = _some(workspace)

    def run() -> int:
        overlapping_pairs(crops, threads=workspace.threads)
        return len(crops)

    return Workload(run)


def _some(workspace: Workspace) -> np.ndarray:
    return np.array(open_crops(workspace.crops, "train")[: 40 if workspace.small else CROPS])


IMPLEMENTATIONS: dict[str, Implementation] = {"baseline": naive, "project": run_project}
