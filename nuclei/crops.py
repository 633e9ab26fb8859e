"""Crops on disk, their labels and their folds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


@dataclass(frozen=True)
class FoldedCrops:
    """All labelled crops, each in its fold.

    Attributes:
        data: Memory-mapped crops with their labels.
        folds: int64 (N,) in 0..F-1.
        groups: int64 (N,): crops of one group are alike, and in one fold.
        held_out: The folds that are held out in turn, rising.
    """

    data: LabelledCrops
    folds: np.ndarray
    groups: np.ndarray
    held_out: list[int]

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
    return FoldedCrops(data, folds, groups, held_out)
