import numpy as np
import pytest

from nuclei.explanation.examples import choose, draw


def two_class(chances):
    """Probabilities (models, N, 2) from those of class 1."""
    return np.stack([1 - np.array(chances), np.array(chances)], axis=2)


def test_the_sample_has_as_many_of_each_class_and_so_has_its_beginning():
    labels = np.repeat([0, 1, 2, 5], [50, 30, 20, 3])
    rows = draw(labels, 16, stratify=True, seed=0)
    assert len(set(rows.tolist())) == 16
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [5, 4, 4, 3]  # class 5 has no more
    assert sorted(labels[rows[:4]]) == [0, 1, 2, 5]


def test_without_strata_the_sample_has_the_classes_as_they_come():
    labels = np.repeat([0, 1], [9000, 1000])
    assert labels[draw(labels, 4000, stratify=False, seed=0)].mean() == pytest.approx(0.1, abs=0.02)


def test_another_seed_draws_other_crops_and_the_same_seed_the_same():
    labels = np.arange(100) % 4
    first, again, other = (draw(labels, 8, True, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert len(draw(labels, 500, True, 0)) == 100


def test_without_an_error_only_the_sample_is_chosen():
    chosen = choose(np.array([1, 1]), two_class([[0.9, 0.8]]), 2, True, 4, seed=0)
    assert sorted(chosen.rows.tolist()) == [0, 1] and (chosen.drawn, chosen.errors.tolist()) == (2, [])


def test_what_networks_say_does_not_choose_the_sample_and_an_error_in_it_is_explained_once():
    labels = np.array([1, 0, 0, 1, 1, 0, 1])
    chances = two_class([[0.9, 0.7, 0.2, 0.1, 0.3, 0.4, 0.6]])  # 3 is the worst, then 1 and 4
    chosen = choose(labels, chances, 4, True, 3, seed=0)
    assert chosen.rows[: chosen.drawn].tolist() == draw(labels, 4, True, 0).tolist()
    assert chosen.rows[chosen.errors].tolist() == [3, 1, 4]
    assert len(set(chosen.rows.tolist())) == len(chosen.rows)
