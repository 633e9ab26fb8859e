"""Which crops are worth a look."""

import numpy as np


def choose_examples(labels: np.ndarray, predicted: np.ndarray, crops_a_class: int) -> np.ndarray:
    """Choose crops to explain: rows, int (M,), ordered by label, right ones before wrong ones.

    labels: int (N,); predicted: int (models, N). Of each class, half are crops that every model gets right and half
    ones that any gets wrong, the first in file order; where a half runs short, the other fills up.
    """
    right = (predicted == labels).all(axis=0)
    chosen = []
    for label in np.unique(labels):
        rights = np.flatnonzero((labels == label) & right)
        wrongs = np.flatnonzero((labels == label) & ~right)
        n_wrong = min(len(wrongs), max(crops_a_class // 2, crops_a_class - len(rights)))
        chosen += [rights[: crops_a_class - n_wrong], wrongs[:n_wrong]]
    return np.concatenate(chosen)


def worst_errors(labels: np.ndarray, probabilities: np.ndarray, crops: int) -> np.ndarray:
    """Choose the `crops` that any model is surest of and gets wrong: rows, int (M,), the surest first.

    labels: int (N,); probabilities: float (models, N, K)
    """
    wrong = probabilities.argmax(axis=2) != labels
    sureness = np.where(wrong, probabilities.max(axis=2), 0).max(axis=0)
    return np.argsort(-sureness, kind="stable")[: min(crops, np.count_nonzero(sureness))]
