"""From groups of crops to stratified folds, and from folds to roles."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from nuclei.crops import roles
from nuclei.errors import InputError
from nuclei.task import CLASSES


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
    for role, members in roles(folds)._asdict().items():
        _check_classes(labels, fold, members, f"the {role} folds")
    return fold


def check_training(labels: np.ndarray, fold: np.ndarray, folds: int) -> None:
    """Raise InputError unless the training folds have every class whichever fold is held out. labels, fold: int (N,)"""
    for holdout in range(folds):
        _check_classes(labels, fold, roles(folds, holdout).training, f"the training folds with fold {holdout} held out")


def _check_classes(labels: np.ndarray, fold: np.ndarray, members: list[int], name: str) -> None:
    missing = set(np.unique(labels)) - set(labels[np.isin(fold, members)])
    if missing:
        raise InputError(f"train.csv: no crop of label {min(missing)} fell to {name}: change split.seed or split.folds")
