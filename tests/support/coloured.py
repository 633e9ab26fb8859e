"""Crops whose colour gives the class away, through noise."""

import numpy as np

from nuclei.crops import FoldedCrops, LabelledCrops, Places

COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])


def coloured(n: int, seed: int = 0, noise: float = 60, wrong: float = 0.1) -> LabelledCrops:
    """Draw crops, uint8 (n, 100, 100, 3), of the four classes in turn; the share `wrong` of the labels is."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 4
    crops = COLOURS[classes][:, None, None] + rng.normal(0, noise, (n, 100, 100, 3))
    labels = np.where(rng.random(n) < wrong, (classes + 1) % 4, classes)
    return LabelledCrops(crops.clip(0, 255).astype(np.uint8), labels)


def folded(n: int, folds: int, held_out: list[int], seed: int = 0) -> FoldedCrops:
    """Put coloured crops into folds, in no order, in groups of four, which lie side by side."""
    groups = np.arange(n) // 4
    numbers = np.random.default_rng(seed).permutation(np.arange(groups.max() + 1) % folds)
    places = Places(groups, np.zeros(n), 10.0 * (np.arange(n) % 4))
    return FoldedCrops(coloured(n, seed), numbers[groups], groups, held_out, places)
