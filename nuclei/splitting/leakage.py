"""What a split leaks: crops that share pixels with crops of another fold, or with the test crops."""

from typing import Any

import numpy as np

from nuclei.errors import InputError
from nuclei.splitting.overlap import Pairs, groups, joined


def merge_groups(*labellings: np.ndarray) -> np.ndarray:
    """Join what any labelling joins: each (N,), any values; returns int64 (N,), numbered by first appearance."""
    n = len(labellings[0])
    firsts = []
    for labels in labellings:
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        firsts.append(first[inverse])
    return joined(np.concatenate(firsts), np.tile(np.arange(n), len(firsts)), n)


def training_groups(pairs: Pairs, n: int, n_test: int) -> np.ndarray:
    """Number the groups of training crops that share pixels, with each other or with the same test crops.

    A test crop that overlaps two training crops shows that both are of one piece of tissue, although the two share no
    pixel. Only the pixels of test crops are used; they have no labels.

    Args:
        pairs: of the `n` training crops, numbered first, and the `n_test` test crops.

    Returns:
        int64 (n,), numbered by first appearance; a crop that shares nothing is a group of its own.
    """
    return groups(pairs, n + n_test)[:n]


def across_folds(pairs: Pairs, folds: np.ndarray) -> np.ndarray:
    """Tell which pairs lie in two folds: bool (P,). folds: int (N,), of every crop that the pairs name."""
    return folds[pairs.first] != folds[pairs.second]


def check_folds(pairs: Pairs, folds: np.ndarray, names: np.ndarray) -> None:
    """Raise InputError where two crops that share pixels are in two folds. folds: int (N,); names: text (N,)."""
    leaks = np.flatnonzero(across_folds(pairs, folds))
    if len(leaks):
        first, second = names[pairs.first[leaks[0]]], names[pairs.second[leaks[0]]]
        raise InputError(
            f"the split leaks: {len(leaks):,} pairs of crops share pixels across folds, the first {first} and "
            f"{second}: use split.by: overlap, or give both the same Group"
        )


def measure_leakage(pairs: Pairs, folds: np.ndarray, random_folds: np.ndarray, n_test: int) -> dict[str, Any]:
    """Report what shares pixels; all shares in [0, 1].

    pairs: of the N training crops, numbered first, and the `n_test` test crops
    folds: int (N,), of the training crops as they were split; random_folds: as a split crop by crop would have been
    Groups are of training crops, joined through test crops too: what a split by overlap keeps together.
    """
    n = len(folds)
    within, to_test = pairs[pairs.second < n], pairs[(pairs.first < n) & (pairs.second >= n)]
    sizes = np.bincount(training_groups(pairs, n, n_test))
    leaks = within[across_folds(within, random_folds)]
    leaking = np.isin(np.arange(n), [leaks.first, leaks.second])
    return {
        "overlapping_share": _share(np.isin(np.arange(n), [within.first, within.second])),
        "pairs": len(within),
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "pairs_across_folds": int(across_folds(within, folds).sum()),
        "test_overlapping_share": _share(np.isin(np.arange(n, n + n_test), to_test.second)),
        "leaking_share_of_random_fold": {
            str(fold): _share(leaking[random_folds == fold]) for fold in np.unique(random_folds)
        },
    }


def _share(chosen: np.ndarray) -> float:
    return round(float(chosen.mean()), 6)
