"""What a map is measured by: how much of it lies where, and how alike two are."""

import numpy as np
import pandas as pd

from nuclei.explanation.deletion_insertion import patch_means


def share_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of each map's absolute values inside its mask.

    Args:
        maps: float (N, H, W); a map of zeros counts as even.
        masks: bool (N, H, W).

    Returns:
        float64 (N,) in [0, 1].
    """
    size = np.abs(maps.astype(np.float64)) + 1e-30
    return (size * masks).sum(axis=(1, 2)) / size.sum(axis=(1, 2))


def rank_correlation(maps: np.ndarray, others: np.ndarray, patch: int) -> np.ndarray:
    """Return Spearman's correlation of each two maps, that of their patches' means.

    Pixel by pixel, gradients are noise, which the means take out.

    Args:
        maps: float (N, H, W).
        others: float (N, H, W).
        patch: As in `patch_means`.

    Returns:
        float64 (N,) in [-1, 1], 0 where a map is even.
    """
    ranks, other_ranks = (pd.DataFrame(patch_means(values, patch)).rank(axis=1).to_numpy() for values in (maps, others))
    ranks, other_ranks = (values - values.mean(axis=1, keepdims=True) for values in (ranks, other_ranks))
    norm = np.sqrt((ranks**2).sum(axis=1) * (other_ranks**2).sum(axis=1))
    return (ranks * other_ranks).sum(axis=1) / np.maximum(norm, 1e-30)


def shift(images: np.ndarray, pixels: int) -> np.ndarray:
    """Move images down and right; the edge is repeated.

    Args:
        images: (N, H, W, ...).
        pixels: How far; below zero: up and left.

    Returns:
        (N, H, W, ...).
    """
    rows, columns = (np.clip(np.arange(size) - pixels, 0, size - 1) for size in images.shape[1:3])
    return images[:, rows[:, None], columns]
