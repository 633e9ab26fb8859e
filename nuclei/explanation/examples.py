"""Which crops are worth a look."""

from dataclasses import dataclass

import numpy as np

from nuclei.evaluation.review import worst_errors


@dataclass(frozen=True)
class Examples:
    """Crops to explain, and what each is for.

    rows: int (N,), of the crops that were chosen from, rising; typical, worst: int, places in `rows`, of
    `choose_examples` and `worst_errors`; checked: int, places in `typical`, the first of each class
    """

    rows: np.ndarray
    typical: np.ndarray
    worst: np.ndarray
    checked: np.ndarray


def choose(labels: np.ndarray, probabilities: np.ndarray, crops_per_class: int, errors: int, checks: int) -> Examples:
    """Choose typical crops, `crops_per_class` of each class, the first `checks` of them to be checked; and worst errors.

    labels: int (N,); probabilities: float (models, N, K)
    """
    typical = choose_examples(labels, probabilities, crops_per_class)
    worst = worst_errors(labels, probabilities, errors)
    rows, places = np.unique(np.concatenate([typical, worst]), return_inverse=True)
    rank = np.concatenate([np.arange(count) for count in np.unique(labels[typical], return_counts=True)[1]])
    return Examples(rows, places[: len(typical)], places[len(typical) :], np.flatnonzero(rank < checks))


def choose_examples(labels: np.ndarray, probabilities: np.ndarray, crops_per_class: int) -> np.ndarray:
    """Choose crops to explain: rows, int (M,), ordered by label, right ones before wrong ones.

    labels: int (N,); probabilities: float (models, N, K). Of each class, half are crops that every model gets right,
    the first in file order, and half ones that any gets wrong, as in `worst_errors`; where a half runs short, the
    other fills up.
    """
    wrongs = worst_errors(labels, probabilities, len(labels))
    rights = np.setdiff1d(np.arange(len(labels)), wrongs)
    chosen = []
    for label in np.unique(labels):
        right, wrong = rights[labels[rights] == label], wrongs[labels[wrongs] == label]
        n_wrong = min(len(wrong), max(crops_per_class // 2, crops_per_class - len(right)))
        chosen += [right[: crops_per_class - n_wrong], wrong[:n_wrong]]
    return np.concatenate(chosen)
