import numpy as np
import pytest
from simulated_scores import calibrated

from nuclei.crops import Places
from nuclei.models import neighbours
from nuclei.models.neighbours import add_neighbours, fit_weights, labels_around, mean_of_neighbours
from nuclei.models.temperature import softmax


def places(*rows):
    """Tissue, y and x of each nucleus."""
    return Places(*map(np.array, zip(*rows, strict=True)))


def test_neighbours_are_other_nuclei_of_the_same_tissue_within_50_microns():
    probabilities = np.eye(6)
    where = places((0, 0, 0), (0, 30, 40), (0, -30, 0), (0, 0, 50.1), (1, 0, 0), (0, 0.5, 0.5))
    means = mean_of_neighbours(probabilities, where)
    assert means[0].tolist() == [0, 0.5, 0.5, 0, 0, 0]  # not the one that is 0.7 microns away: the same nucleus
    assert means[1].tolist() == pytest.approx([1 / 3, 0, 0, 1 / 3, 0, 1 / 3])
    assert np.isnan(means[4]).all()  # at the same place, in other tissue


def test_labels_around_are_shares_of_the_labelled_nuclei_within_50_microns_in_the_same_tissue():
    labelled = places((0, 0, 0), (0, 0, 40), (0, 0, 95), (1, 0, 0))
    shares = labels_around(places((0, 0, 0), (0, 0, 50), (2, 0, 0)), labelled, np.array([2, 0, 0, 1]), classes=3)
    assert shares[0].tolist() == [0, 0, 1]  # the one in the same place is the same nucleus, and its label is known
    assert shares[1].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert np.isnan(shares[2]).all()


def test_blocks_of_nuclei_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    probabilities, where = (
        softmax(rng.normal(size=(300, 4))),
        Places(np.arange(300) % 3, *rng.uniform(0, 300, (2, 300))),
    )
    labelled, labels = Places(np.arange(100) % 3, *rng.uniform(0, 300, (2, 100))), rng.integers(0, 4, 100)
    whole, known = mean_of_neighbours(probabilities, where), labels_around(where, labelled, labels, 4)
    monkeypatch.setattr(neighbours, "AT_ONCE", 7)
    assert np.allclose(mean_of_neighbours(probabilities, where), whole, equal_nan=True, atol=1e-12)
    assert np.array_equal(labels_around(where, labelled, labels, 4), known, equal_nan=True)
    assert 0 < np.isnan(known).all(axis=1).sum() < 300
    assert 0 < np.isnan(whole).all(axis=1).sum() < 300
    rest = np.isfinite(whole).all(axis=1)
    assert np.allclose(whole[rest].sum(axis=1), 1)


def test_no_nuclei_have_no_neighbours():
    nothing, nowhere = np.empty((0, 4)), Places(*np.empty((3, 0)))
    assert mean_of_neighbours(nothing, nowhere).shape == (0, 4)
    somewhere, no_labels = places((0, 0, 0)), np.empty(0, int)
    assert labels_around(nowhere, somewhere, np.array([1]), 4).shape == (0, 4)
    assert np.isnan(labels_around(somewhere, nowhere, no_labels, 4)).all()


def blobs(share, seed=0):
    """Nuclei in clusters of ten, a `share` of each of one class: labels, calibrated probabilities, means around."""
    logits, labels = calibrated(2000)
    rng = np.random.default_rng(seed)
    order = np.argsort(labels + 100 * (rng.random(2000) > share), kind="stable")
    labels, probabilities = labels[order], softmax(logits[order])
    return (
        labels,
        probabilities,
        mean_of_neighbours(
            probabilities, Places(np.arange(2000) // 10, *np.zeros((1, 2000)), 5.0 * (np.arange(2000) % 10))
        ),
    )


def test_weights_make_the_labels_more_likely_where_nuclei_of_a_class_lie_together():
    labels, probabilities, around = blobs(share=0.8)
    weights = fit_weights(probabilities, around, labels)
    assert len(weights) == 5 and weights[0] > 0.2 and min(weights[1:]) > 0.3
    together = add_neighbours(probabilities, around, weights)
    assert np.allclose(together.sum(axis=1), 1)

    def loss(values):
        return -np.log(values[np.arange(len(labels)), labels]).mean()

    assert loss(together) < loss(probabilities) - 0.1

    def penalised(values):
        moved = np.array(values) - [1, 0, 0, 0, 0]
        return loss(add_neighbours(probabilities, around, values)) + 0.003 * moved @ moved

    for change in np.eye(5) * 0.05:  # a minimum
        assert min(penalised(np.array(weights) + change), penalised(np.array(weights) - change)) > penalised(weights)


def test_a_few_nuclei_do_not_make_extreme_weights():
    labels = np.arange(8) % 4
    probabilities = 0.8 * np.eye(4)[labels] + 0.05
    assert (
        max(fit_weights(probabilities, probabilities, labels)) < 3
    )  # all are right: without bounds, weights would grow


def test_neighbours_count_nothing_where_they_say_nothing():
    labels, probabilities, around = blobs(share=0.8)
    shuffled = np.random.default_rng(1).permutation(around)
    of_nucleus, *of_neighbours = fit_weights(probabilities, shuffled, labels)
    assert of_nucleus == pytest.approx(1, abs=0.1) and max(of_neighbours) < 0.2


def test_a_nucleus_alone_keeps_its_probabilities():
    labels, probabilities, around = blobs(share=0.8)
    around[:3] = np.nan
    weights = fit_weights(probabilities, around, labels)
    together = add_neighbours(probabilities, around, weights)
    assert np.array_equal(together[:3], probabilities[:3]) and (together[3:] != probabilities[3:]).any()
    assert fit_weights(probabilities[:3], around[:3], labels[:3]) is None
