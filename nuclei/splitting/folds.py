"""From groups of crops to stratified folds. All scores are integers, so that every processor makes the same folds."""

from collections.abc import Sequence

import numpy as np

from nuclei.errors import InputError

DRAWS = 200  # assignments to choose from; more hardly improve the best
STEPS = 200_000  # groups times draws: many groups are balanced by any draw
UNIT = 2**50  # what a class weighs in the score, so that sums over a thousand classes fit 64 bits


def assign_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int, classes: Sequence[str]) -> np.ndarray:
    """Choose the fold of each crop: no group in two folds, classes spread evenly.

    Of up to 200 greedy assignments, each in a random order with large and rare groups early, this is the one whose
    folds are the most alike in class counts, among those that leave every class to train on whichever fold is held
    out, and then among those that lack a class in the fewest folds. The seed draws the orders and numbers the folds.

    Args:
        labels: int (N,), in 0..K-1.
        groups: (N,), any values that can be sorted; crops of equal value stay together.
        folds: 2 or more.
        seed: Of the draws; another seed gives other folds where the groups leave a choice.
        classes: The K names, for messages.

    Returns:
        int64 (N,) in 0..folds-1.

    Raises:
        InputError: Fewer groups than folds, or a class that no held-out fold may contain because it is in one group.
    """
    counts = _class_counts(labels, groups, len(classes))
    _check_groups(counts, folds, classes)
    rng = np.random.default_rng(seed)
    weights = UNIT // np.maximum(counts.sum(axis=0), 1) ** 2
    draws = int(np.clip(STEPS // len(counts), 10, DRAWS))
    assigned, load = _greedy(counts, weights, folds, _orders(counts, draws, rng))
    covered = (load[..., :-1] > 0).sum(axis=1)  # (draws, K): how many folds have the class
    possible = np.minimum((counts[:, :-1] > 0).sum(axis=0), folds)
    untrained, absent = (covered < 2).sum(axis=1), (possible - covered).sum(axis=1)
    unevenness = (load**2 * weights).sum(axis=(1, 2))
    best = np.lexsort((unevenness, absent, untrained))[0]
    if untrained[best]:
        label = int(np.flatnonzero(covered[best] < 2)[0])
        raise InputError(
            f"train.csv: all crops of label {label} ({classes[label]}) would fall to a single fold of {folds}, which "
            "leaves none to train on: raise split.folds or add groups with that class"
        )
    number = rng.permutation(folds)
    return number[assigned[best]][np.unique(groups, return_inverse=True)[1]]


def fold_warnings(labels: np.ndarray, groups: np.ndarray, fold: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return a line per class on which the scores rest poorly: in few groups, or mostly in a single fold.

    Args:
        labels: int (N,), in 0..K-1.
        groups: (N,), as for `assign_folds`.
        fold: int (N,), of each crop.
        classes: The K names.
    """
    folds = np.unique(fold)
    lines = []
    for label, name in enumerate(classes):
        rows = labels == label
        count = len(np.unique(groups[rows]))
        crops = np.array([(fold[rows] == number).sum() for number in folds])
        without = ", ".join(str(number) for number in folds[crops == 0])
        if count < len(folds) or without:
            lines.append(
                f"label {label} ({name}) is in {count} groups for {len(folds)} folds, none in fold {without}: "
                "its scores rest on few groups; lower split.folds or add groups with that class"
            )
        elif 2 * len(folds) * (crops.sum() - crops.max()) < (len(folds) - 1) * crops.sum():
            lines.append(
                f"label {label} ({name}) has {crops.max():,} of its {crops.sum():,} crops in fold "
                f"{folds[crops.argmax()]}: with that fold held out, few are left to train on; add groups with it"
            )
    return lines


def _class_counts(labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 (G, K + 1): the crops of each class, and in the last column all crops, of each sorted group."""
    values, group = np.unique(groups, return_inverse=True)
    counts = np.bincount(group * classes + labels, minlength=len(values) * classes).reshape(-1, classes)
    return np.column_stack([counts, counts.sum(axis=1)])


def _check_groups(counts: np.ndarray, folds: int, classes: Sequence[str]) -> None:
    if len(counts) < folds:
        raise InputError(
            f"train.csv: the crops are of {len(counts)} groups, fewer than the {folds} folds: "
            "lower split.folds or add crops of other groups"
        )
    for label, name in enumerate(classes):
        count = np.count_nonzero(counts[:, label])
        if count < 2:
            raise InputError(
                f"train.csv: label {label} ({name}) has {counts[:, label].sum()} crops in {count} group"
                f"{'' if count else 's'}, expected 2 or more: with that group held out, nothing would be left to train "
                "on; add crops of that class from another group"
            )


def _orders(counts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return int64 (draws, G): groups with a large share of any class tend to come early."""
    share = ((counts << 20) // np.maximum(counts.sum(axis=0), 1)).max(axis=1) + 1
    noisy = share * rng.integers(2**10, 2**12, (draws, len(counts)))
    return np.argsort(-noisy, axis=1, kind="stable")


def _greedy(counts: np.ndarray, weights: np.ndarray, folds: int, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign group after group, in all draws at once, to the fold that then is the least uneven.

    A fold that lacks a class of the group goes first, all the more if a single fold has that class so far.
    counts: int64 (G, K + 1); weights: int64 (K + 1,); orders: int (draws, G).
    Returns the fold of each group, int64 (draws, G), and the crops per fold, int64 (draws, folds, K + 1).
    """
    draw = np.arange(len(orders))
    assigned = np.empty(orders.shape, np.int64)
    load = np.zeros((len(orders), folds, counts.shape[1]), np.int64)
    weighted = counts * weights
    lacking = True
    for group in orders.T:
        cost = np.einsum("dfk,dk->df", load, weighted[group])  # the sum of squares grows by this, twice
        if lacking:
            absent = load[..., :-1] == 0
            urgency = np.where(absent.sum(axis=1) == folds - 1, counts.shape[1], 1) * (counts[group, :-1] > 0)
            gain = np.einsum("dfk,dk->df", absent.astype(np.int64), urgency)
            cost[gain < gain.max(axis=1, keepdims=True)] = np.iinfo(np.int64).max
            lacking = absent.any()
        chosen = cost.argmin(axis=1)
        load[draw, chosen] += counts[group]
        assigned[draw, group] = chosen
    return assigned, load
