"""Which crops are worth a look."""

from dataclasses import dataclass

import numpy as np

from nuclei.evaluation.review import worst_errors


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
    """Choose crops to explain: a random sample, correct or not, and beside it the most confident errors.

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
    position = {row: i for i, row in enumerate(rows.tolist())}
    return Examples(rows, len(sample), np.array([position[row] for row in worst.tolist()], int))


def draw(labels: np.ndarray, crops: int, stratify: bool, seed: int) -> np.ndarray:
    """Draw crops at random, without regard to what any network says of them.

    Args:
        labels: int (M,).
        crops: How many, at most M.
        stratify: Class by class in turn, so that of each class there are as many as of any other, up to one, as long as
            it lasts; so it is of the first rows alone, too.
        seed: Of the order.

    Returns:
        Rows, int (crops,).
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if stratify:
        round_of = np.empty(len(labels), int)
        for label in np.unique(labels):
            members = labels[order] == label
            round_of[members] = np.arange(members.sum())
        order = order[np.lexsort((labels[order], round_of))]
    return order[:crops]
