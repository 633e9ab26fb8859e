"""Crops on disk and in batches: memory-mapped arrays, normalisation, augmentation of whole batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Labelled:
    """Crops with their labels: crops uint8 (N, H, W, C), labels int64 (N,) in 0..K-1."""

    crops: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def open_crops(folder: Path, part: str) -> np.ndarray:
    """Memory-map `folder`/`part`.npy: uint8 (N, H, W, C), read-only."""
    return np.load(folder / f"{part}.npy", mmap_mode="r")


def select(crops: np.ndarray, split: pd.DataFrame, folds: Sequence[int]) -> Labelled:
    """Read the crops whose Fold is in `folds` into memory. `split` has a row a crop, in the order of `crops`."""
    rows = np.flatnonzero(split["Fold"].isin(folds))
    return Labelled(crops[rows], split["Label"].to_numpy(np.int64)[rows])


class Roles(NamedTuple):
    """Which folds fit, which pick the epoch and the hyper-parameters, which only measure."""

    training: list[int]
    validation: list[int]
    holdout: list[int]


def roles(folds: int, holdout: int = 0) -> Roles:
    """Give fold `holdout` to measuring, the one after it (0 after the last) to picking, the others to fitting."""
    validation = (holdout + 1) % folds
    training = [fold for fold in range(folds) if fold not in (holdout, validation)]
    return Roles(training, [validation], [holdout])
