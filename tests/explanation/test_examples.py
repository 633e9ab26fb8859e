import numpy as np
import pytest

from nuclei.evaluation.review import worst_errors
from nuclei.explanation.examples import choose, choose_examples


def two_class(chances):
    """Probabilities (models, N, 2) from those of class 1."""
    return np.stack([1 - np.array(chances), np.array(chances)], axis=2)


def test_examples_are_half_right_ones_and_half_the_surest_wrong_ones_of_each_class():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    chances = two_class([[0.1, 0.9, 0.2, 0.8, 0.6, 0.7, 0.9, 0.4, 0.7, 0.9]])  # 4, 6, 8 and 7 are wrong
    assert choose_examples(labels, chances, 2).tolist() == [0, 6, 1, 7]
    assert choose_examples(labels, chances, 4).tolist() == [0, 2, 6, 8, 1, 3, 5, 7]


def test_an_example_is_right_only_where_every_model_is():
    chances = two_class([[0.1, 0.8, 0.1, 0.1], [0.1, 0.1, 0.9, 0.1]])
    assert choose_examples(np.zeros(4, int), chances, 4).tolist() == [0, 3, 2, 1]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [([], [0, 1, 2, 3]), ([0, 1, 2, 3, 4], [5, 0, 1, 2]), ([5], [0, 1, 2, 5]), ([0, 1, 2, 3], [4, 5, 0, 1])],
)
def test_the_other_half_fills_up_where_one_runs_short(wrong, expected):
    chances = np.full((1, 6), 0.2)
    chances[0, wrong] = 0.8
    assert choose_examples(np.zeros(6, int), two_class(chances), 4).tolist() == expected


def test_a_small_class_gives_all_it_has():
    assert choose_examples(np.array([0, 1, 1, 1]), two_class([[0.1, 0.9, 0.2, 0.8]]), 6).tolist() == [0, 1, 3, 2]


def test_without_an_error_there_is_no_worst_one():
    assert worst_errors(np.array([1, 1]), two_class([[0.9, 0.8]]), 3).tolist() == []
    chosen = choose(np.array([1, 1]), two_class([[0.9, 0.8]]), 2, 4, 1)
    assert (chosen.rows.tolist(), chosen.typical.tolist(), chosen.worst.tolist()) == ([0, 1], [0, 1], [])


def test_a_crop_that_is_typical_and_among_the_worst_is_explained_once():
    labels = np.array([1, 0, 0, 1, 1, 0, 1])
    chances = two_class([[0.9, 0.7, 0.2, 0.1, 0.3, 0.4, 0.6]])  # 3 is the worst, then 1 and 4
    chosen = choose(labels, chances, 2, 3, 1)
    assert chosen.rows.tolist() == [0, 1, 2, 3, 4]
    assert chosen.rows[chosen.typical].tolist() == [2, 1, 0, 3]
    assert chosen.rows[chosen.worst].tolist() == [3, 1, 4]
    assert chosen.rows[chosen.typical][chosen.checked].tolist() == [2, 0]
    assert choose(labels, chances, 2, 3, 5).checked.tolist() == [0, 1, 2, 3]
