"""Crops on disk, their labels and their folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nuclei.files import read_csv
from nuclei.task import COLON, Task, read_task


@dataclass(frozen=True)
class LabelledCrops:
    """Crops with their labels.

    Attributes:
        crops: uint8 (N, H, W, C).
        labels: int64 (N,) in 0..K-1.
        task: What the labels mean.
    """

    crops: np.ndarray
    labels: np.ndarray
    task: Task = COLON

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "LabelledCrops":
        """Read crops into memory.

        Args:
            rows: int (M,).
        """
        return LabelledCrops(self.crops[rows], self.labels[rows], self.task)


class Places(NamedTuple):
    """Where N nuclei lie.

    Attributes:
        tissue: int (N,): places can be compared where this is the same: in one slide, or one mosaic of crops.
        y: float (N,), microns.
        x: float (N,), microns.
    """

    tissue: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def take(self, rows: np.ndarray) -> "Places":
        """Return those of some nuclei, int or bool (M,)."""
        return Places(*(values[rows] for values in self))


@dataclass(frozen=True)
class FoldedCrops:
    """All labelled crops, each in its fold.

    Attributes:
        data: Memory-mapped crops with their labels.
        folds: int64 (N,) in 0..F-1.
        groups: int64 (N,): crops of one group are alike, and in one fold.
        held_out: The folds that are held out in turn, rising.
        places: Where the nuclei lie, as far as crops that share pixels tell.
    """

    data: LabelledCrops
    folds: np.ndarray
    groups: np.ndarray
    held_out: list[int]
    places: Places

    def split(self, fold: int | None) -> tuple[LabelledCrops, LabelledCrops | None]:
        """Read what a network trains on, and what is held out from it, into memory.

        Args:
            fold: What is held out; None: nothing.

        Returns:
            All crops but those of `fold`, and those of `fold`, None where it is None.
        """
        if fold is None:
            return self.data.take(np.arange(len(self.data))), None
        heldout = self.folds == fold
        return self.data.take(np.flatnonzero(~heldout)), self.data.take(np.flatnonzero(heldout))


def open_crops(folder: Path, part: str) -> np.ndarray:
    """Memory-map the crops that the stage `unzip` wrote.

    Args:
        folder: Where they are.
        part: train or test.

    Returns:
        uint8 (N, H, W, C), read-only.
    """
    return np.asarray(np.load(folder / f"{part}.npy", mmap_mode="r"))  # np.memmap itself is slow to slice


def open_folds(folder: Path, split: Path) -> FoldedCrops:
    """Open the labelled crops with their folds.

    Args:
        folder: Of the crops, as for `open_crops`.
        split: The table that the stage `split` wrote.
    """
    table = read_csv(split)
    data = LabelledCrops(open_crops(folder, "train"), table["Label"].to_numpy(np.int64), read_task(folder))
    held_out = sorted(int(fold) for fold in table.loc[table["Held_out"] == 1, "Fold"].unique())
    folds, groups = (table[name].to_numpy(np.int64) for name in ("Fold", "Group"))
    return FoldedCrops(data, folds, groups, held_out, read_places(table, data.task))


def read_places(split: pd.DataFrame, task: Task) -> Places:
    """Return where the nuclei of crops lie.

    Args:
        split: The table that the stage `split` wrote, or rows of it.
        task: The resolution of the crops.
    """
    tissue, y, x = (split[name].to_numpy() for name in ("Mosaic", "Y", "X"))
    return Places(tissue, task.mpp * y, task.mpp * x)
