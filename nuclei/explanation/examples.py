"""Which crops are worth a look."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Crops to explain.

    Attributes:
        rows: int (N,), of the crops that were chosen from: first those of `draw`, then errors that are not among them.
        drawn: How many of them `draw` drew; only these are a sample, from which something follows for all crops.
        errors: int, positions in `rows` of the errors of `worst_errors`.
    """

    rows: np.ndarray
    drawn: int
    errors: np.ndarray


def choose(
    labels: np.ndarray, probabilities: np.ndarray, crops: int, stratify: bool, errors: int, seed: int
) -> Examples:
    """Choose crops to explain: a random sample, whether right or wrong, and beside it the most confident errors.

    Args:
        labels: int (M,).
        probabilities: float (models, M, K), to find the errors.
        crops: Size of the sample, see `draw`.
        stratify: See `draw`.
        errors: How many errors at most.
        seed: Of the sample.
    """
    sample, worst = draw(labels, crops, stratify, seed), worst_errors(labels, probabilities, errors)
    rows = np.concatenate([sample, worst[~np.isin(worst, sample)]])
    position = {row: index for index, row in enumerate(rows.tolist())}
    return Examples(rows, len(sample), np.array([position[row] for row in worst.tolist()], int))


def draw(labels: np.ndarray, crops: int, stratify: bool, seed: int) -> np.ndarray:
    """Draw `crops` rows, int, of `labels`, int (M,), at random, without regard to what any network says of them.

    stratify: class by class in turn, so that of each class there are as many as of any other, up to one, as long as it
    lasts; so it is of the first rows alone, too
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if stratify:
        turn = np.empty(len(labels), int)
        for label in np.unique(labels):
            members = labels[order] == label
            turn[members] = np.arange(members.sum())
        order = order[np.lexsort((labels[order], turn))]
    return order[:crops]


def worst_errors(labels: np.ndarray, probabilities: np.ndarray, crops: int) -> np.ndarray:
    """Choose the `crops` that any model gets wrong and is surest of: rows, int (M,), the surest first.

    labels: int (N,); probabilities: float (models, N, K)
    """
    return surest_errors(labels, probabilities.argmax(axis=2), probabilities.max(axis=2))[:crops]


def surest_errors(labels: np.ndarray, guesses: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Rank the crops that any model gets wrong: rows, int (M,), those first where one is surest of a wrong class.

    labels: int (N,); guesses: int (models, N), the class of each; confidences: float (models, N), above 0
    """
    sureness = np.where(guesses != labels, confidences, 0).max(axis=0)
    return np.argsort(-sureness, kind="stable")[: np.count_nonzero(sureness)]
