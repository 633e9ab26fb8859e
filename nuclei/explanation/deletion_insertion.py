"""Deletion and insertion curves: how fast a network's answer goes, or comes, in the order that a map gives."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

CROPS_AT_ONCE = 64
RANDOM_FIELDS = 1  # per crop
FIELD_SIGMA = 0.1  # of the smooth random fields, as a share of the crop's height: blobs as large as a nucleus
NULLS = ("centre_first", "smooth_random")  # orders that ask no network: what a map has to beat

Predict = Callable[[np.ndarray], np.ndarray]  # crops, uint8 (N, H, W, C), to probabilities (N, K)


def null_orders(crops: np.ndarray, seeds: Iterable[int]) -> dict[str, list[np.ndarray]]:
    """Return maps that ask no network: a disc that grows, and smooth random fields.

    Args:
        crops: (N, H, W, C); only their shape counts.
        seeds: N, one per crop.

    Returns:
        By the names in `NULLS`, one or more maps, float64 (N, H, W).
    """
    count, height, width = crops.shape[:3]
    rows, columns = (np.arange(size) - (size - 1) / 2 for size in (height, width))
    centre = np.broadcast_to(-np.hypot(rows[:, None], columns), (count, height, width))
    generators = [np.random.default_rng((int(seed), 1)) for seed in seeds]
    sigma = FIELD_SIGMA * height
    fields = [
        np.stack([gaussian_filter(generator.normal(size=(height, width)), sigma) for generator in generators])
        for _ in range(RANDOM_FIELDS)
    ]
    return {"centre_first": [centre], "smooth_random": fields}


def deletion_insertion(
    predict: Predict,
    crops: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    targets: np.ndarray,
    maps: Mapping[str, Sequence[np.ndarray]],
    points: int,
    patch: int,
) -> pd.DataFrame:
    """Follow the probability of the targets while patches are hidden, or shown, the highest values of a map first.

    Args:
        predict: The network.
        crops: uint8 (N, H, W, C).
        baselines: By name, what hides: uint8 (N, H, W, C).
        targets: int (N,), the classes.
        maps: By method, float (N, H, W); several are averaged over.
        points: Intervals of a curve, narrower at its start.
        patch: Pixels per side of a patch, about: a whole number of patches fills the crop.

    Returns:
        One row per Baseline, Method, Curve (deletion, insertion), Crop (0..N-1) and Share of the patches in [0, 1],
        with the Probability.

    Source: Petsiuk et al. 2018, "RISE"; patches, not pixels: Samek et al. 2017, "Evaluating the visualization of what a
        deep neural network has learned".
    """
    shares = np.linspace(0, 1, points + 1) ** 2
    crop_of = np.arange(len(crops))
    whole = predict(crops)[crop_of, targets]
    tables = []
    for name, hidden in baselines.items():
        empty = predict(hidden)[crop_of, targets]
        for method, orders in maps.items():
            inner = np.mean(
                [_inner(predict, crops, hidden, targets, order, shares[1:-1], patch) for order in orders], axis=0
            )
            ends = {"deletion": (whole, empty), "insertion": (empty, whole)}
            for (curve, (start, end)), values in zip(ends.items(), inner, strict=True):
                probabilities = np.column_stack([start, values, end])
                table = {"Baseline": name, "Method": method, "Curve": curve, "Crop": crop_of.repeat(len(shares))}
                table |= {"Share": np.tile(shares, len(crops)), "Probability": probabilities.ravel()}
                tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def _inner(
    predict: Predict,
    crops: np.ndarray,
    hidden: np.ndarray,
    targets: np.ndarray,
    maps: np.ndarray,
    shares: np.ndarray,
    patch: int,
) -> np.ndarray:
    """Return the probabilities between the ends of both curves: float (2, N, P)."""
    ranks = (-patch_means(maps, patch)).argsort(axis=1, kind="stable").argsort(axis=1)
    numbers = _patches(crops.shape[1:3], patch)
    counts = np.round(shares * ranks.shape[1])[:, None, None]
    curves = []
    for start in range(0, len(crops), CROPS_AT_ONCE):
        batch = slice(start, start + CROPS_AT_ONCE)
        first = (ranks[batch][:, None, numbers] < counts)[..., None]
        crop, cover = crops[batch, None], hidden[batch, None]
        images = np.concatenate([np.where(first, cover, crop), np.where(first, crop, cover)], axis=1)
        probabilities = predict(images.reshape(-1, *crops.shape[1:])).reshape(*images.shape[:2], -1)
        curves.append(np.take_along_axis(probabilities, targets[batch, None, None], axis=2)[..., 0])
    return np.stack(np.split(np.concatenate(curves), 2, axis=1))


def patch_means(maps: np.ndarray, patch: int) -> np.ndarray:
    """Return the means of maps in patches.

    Args:
        maps: float (N, H, W).
        patch: Pixels per side of a patch, about: a whole number of patches fills the map.

    Returns:
        float (N, patches), row by row.
    """
    rows, columns = (_starts(size, patch) for size in maps.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)
    heights, widths = (
        np.diff(np.append(starts, size)) for starts, size in zip((rows, columns), maps.shape[1:], strict=True)
    )
    return (sums / (heights[:, None] * widths)).reshape(len(maps), len(rows) * len(columns))


def _starts(size: int, patch: int) -> np.ndarray:
    """Return where the patches along a side of `size` pixels start."""
    count = max(round(size / patch), 1)
    return -(-np.arange(count) * size // count)


def _patches(size: tuple[int, int], patch: int) -> np.ndarray:
    """Return the number of each pixel's patch, int (H, W), row by row."""
    rows, columns = (np.searchsorted(_starts(length, patch), np.arange(length), side="right") - 1 for length in size)
    return rows[:, None] * (columns[-1] + 1) + columns
