"""What a split leaks: crops that share pixels with crops of another fold, or with the test crops."""

from typing import Any

import numpy as np

from nuclei.errors import InputError
from nuclei.splitting.overlap import Pairs, groups, joined


def merge_groups(*labellings: np.ndarray) -> np.ndarray:
    """Join what any labelling joins.

    Args:
        *labellings: (N,) each, any sortable values; crops of equal value are joined.

    Returns:
        int64 (N,), numbered by first appearance.
    """
    n = len(labellings[0])
    firsts = []
    for labels in labellings:
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        firsts.append(first[inverse])
    return joined(np.concatenate(firsts), np.tile(np.arange(n), len(firsts)), n)


def training_groups(pairs: Pairs, n: int, n_test: int) -> np.ndarray:
    """Number the groups of training crops that share pixels with each other or with the same test crops.

    A test crop that overlaps two training crops shows that both are of one piece of tissue, although the two share no
    pixel. Only the pixels of test crops are used; they have no labels.

    Args:
        pairs: Of the training crops, numbered first, and the test crops.
        n: Number of training crops.
        n_test: Number of test crops.

    Returns:
        int64 (n,), numbered by first appearance; a crop that shares nothing is a group by itself.
    """
    return groups(pairs, n + n_test)[:n]


def across_folds(pairs: Pairs, folds: np.ndarray) -> np.ndarray:
    """Tell which pairs lie in two folds.

    Args:
        pairs: P pairs.
        folds: int (N,), of every crop that they name.

    Returns:
        bool (P,).
    """
    return folds[pairs.first] != folds[pairs.second]


def check_folds(pairs: Pairs, folds: np.ndarray, names: np.ndarray) -> None:
    """Look whether crops that share pixels are in one fold.

    Args:
        pairs: Crops that share pixels.
        folds: int (N,).
        names: Text (N,), for the message.

    Raises:
        InputError: Two of them are not.
    """
    leaks = np.flatnonzero(across_folds(pairs, folds))
    if len(leaks):
        first, second = names[pairs.first[leaks[0]]], names[pairs.second[leaks[0]]]
        raise InputError(
            f"the split leaks: {len(leaks):,} pairs of crops share pixels across folds, the first {first} and "
            f"{second}: use split.by: overlap, or give both the same Group"
        )


def measure_leakage(pairs: Pairs, folds: np.ndarray, random_folds: np.ndarray, n_test: int) -> dict[str, Any]:
    """Report what shares pixels.

    Args:
        pairs: Of the N training crops, numbered first, and the test crops.
        folds: int (N,), of the training crops as they were split.
        random_folds: int (N,), as a split crop by crop would have been.
        n_test: Number of test crops.

    Returns:
        overlapping_share of the training crops; pairs; groups, of training crops, joined through test crops too, which
        a split by overlap keeps together, and the crops of the largest_group; pairs_across_folds;
        test_overlapping_share; leaking_share_of_random_fold, by fold. All shares are in [0, 1].
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
