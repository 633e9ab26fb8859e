"""From groups of crops to stratified folds, and from folds to roles."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from nuclei.classes import CLASSES
from nuclei.errors import InputError


class Roles(NamedTuple):
    """Which folds fit, which pick the epoch and the hyper-parameters, which only measure."""

    training: list[int]
    validation: list[int]
    holdout: list[int]


def roles(folds: int) -> Roles:
    """Give fold 0 to measuring, fold 1 to picking, the others to fitting."""
    return Roles(training=list(range(2, folds)), validation=[1], holdout=[0])


def assign_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each crop, int (N,) in 0..folds-1: no group in two folds, classes spread evenly.

    labels: int (N,), classes; groups: (N,), any values that can be sorted.
    Raises InputError where a class or a fold would come out empty, and says what to change.
    """
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        here = len(np.unique(groups[labels == label]))
        if here < folds:
            raise InputError(
                f"train.csv: label {label} ({CLASSES[label]}) has {count} crops in {here} groups, "
                f"fewer than the {folds} folds: lower split.folds or add crops"
            )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), dtype=np.int64)
    for number, (_, rows) in enumerate(splitter.split(labels, labels, groups)):
        fold[rows] = number
    everything = set(np.unique(labels))
    for role, members in roles(folds)._asdict().items():
        missing = everything - set(labels[np.isin(fold, members)])
        if missing:
            raise InputError(
                f"train.csv: no crop of label {min(missing)} fell to the {role} folds: change split.seed or split.folds"
            )
    return fold
