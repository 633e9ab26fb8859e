import numpy as np
import pytest

from nuclei.examples import choose_examples, worst_errors


def test_examples_are_half_right_ones_and_half_wrong_ones_of_each_class():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    predicted = labels.copy()
    predicted[[4, 6, 8, 7]] ^= 1
    assert choose_examples(labels, predicted[None], 2).tolist() == [0, 4, 1, 7]
    assert choose_examples(labels, predicted[None], 4).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_an_example_is_right_only_where_every_model_is():
    labels = np.zeros(4, int)
    predicted = np.array([[0, 1, 0, 0], [0, 0, 1, 0]])
    assert choose_examples(labels, predicted, 4).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [([], [0, 1, 2, 3]), ([0, 1, 2, 3, 4], [5, 0, 1, 2]), ([5], [0, 1, 2, 5]), ([0, 1, 2, 3], [4, 5, 0, 1])],
)
def test_the_other_half_fills_up_where_one_runs_short(wrong, expected):
    labels, predicted = np.zeros(6, int), np.zeros((1, 6), int)
    predicted[0, wrong] = 3
    assert choose_examples(labels, predicted, 4).tolist() == expected


def test_a_small_class_gives_all_it_has():
    assert choose_examples(np.array([0, 1, 1, 1]), np.array([[0, 1, 2, 1]]), 6).tolist() == [0, 1, 3, 2]


def two_class(chances):
    """Probabilities (models, N, 2) from those of class 1."""
    return np.stack([1 - np.array(chances), np.array(chances)], axis=2)


def test_the_worst_errors_are_the_surest_wrong_answers_of_any_model():
    labels = np.zeros(5, int)
    probabilities = two_class([[0.6, 0.1, 0.9, 0.2, 0.0], [0.2, 0.7, 0.4, 0.1, 0.8]])
    assert worst_errors(labels, probabilities, 3).tolist() == [2, 4, 1]
    assert worst_errors(labels, probabilities, 9).tolist() == [2, 4, 1, 0]


def test_without_an_error_there_is_no_worst_one():
    assert worst_errors(np.array([1, 1]), two_class([[0.9, 0.8]]), 3).tolist() == []
