import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_scores import calibrated

from nuclei.evaluation.calibration import (
    abstention_curve,
    conformal_sets,
    conformal_threshold,
    reliability_curve,
    score_sets,
)
from nuclei.evaluation.metrics import calibration_error
from nuclei.models.predict import softmax


def test_the_reliability_curve_has_the_means_of_each_bin():
    probabilities = np.array([[0.95, 0.05], [0.91, 0.09], [0.55, 0.45], [1.0, 0.0]])
    table = reliability_curve(np.array([0, 1, 1, 0]), probabilities, bins=10)
    assert table.columns.tolist() == ["confidence", "accuracy", "crops"]
    assert table["confidence"].tolist() == pytest.approx([0.55, (0.95 + 0.91 + 1) / 3])
    assert table["accuracy"].tolist() == pytest.approx([0, 2 / 3])
    assert table["crops"].tolist() == [1, 3]


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_the_reliability_curve_adds_up_to_the_calibration_error(seed, n, bins):
    logits, labels = calibrated(n, seed)
    table = reliability_curve(labels, softmax(logits), bins)
    gap = (table["confidence"] - table["accuracy"]).abs()
    assert (gap * table["crops"]).sum() / n == pytest.approx(calibration_error(labels, softmax(logits), bins))
    assert table["crops"].sum() == n


def test_the_abstention_curve_answers_the_surest_first():
    confidence = np.array([0.6, 0.9, 0.8, 0.7])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    table = abstention_curve(np.array([1, 0, 1, 0]), probabilities)
    assert table["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert table["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_crops_of_equal_confidence_are_answered_together():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    probabilities[3] = [0.9, 0.1]
    table = abstention_curve(np.array([1] * 5 + [0] * 5), probabilities)
    assert table["coverage"].tolist() == [0.1, 1]
    assert table["accuracy"].tolist() == [0, 0.5]


@given(st.integers(0, 10**6), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_every_point_of_the_abstention_curve_can_be_had_by_its_threshold(seed, n):
    logits, labels = calibrated(n, seed)
    probabilities = softmax(logits).round(2)
    table = abstention_curve(labels, probabilities)
    assert len(table) <= 100 and table["coverage"].is_monotonic_increasing and table["coverage"].iloc[-1] == 1
    for row in table.itertuples():
        answered = probabilities.max(axis=1) >= row.threshold
        assert answered.mean() == pytest.approx(row.coverage)
        assert (probabilities.argmax(axis=1) == labels)[answered].mean() == pytest.approx(row.accuracy)


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_conformal_sets_cover_as_promised_however_wrong_the_probabilities(coverage, factor):
    """Averaged over draws of the calibration crops, coverage is between the promise and 1 / (n + 1) above it."""
    n, held = 200, []
    for seed in range(60):
        logits, labels = calibrated(2 * n, seed)
        probabilities = softmax(factor * logits)
        threshold = conformal_threshold(labels[:n], probabilities[:n], coverage)
        held.append((probabilities[n:] >= threshold)[np.arange(n), labels[n:]].mean())
    error = 3 * np.std(held) / np.sqrt(len(held))
    assert coverage - error <= np.mean(held) <= coverage + 1 / (n + 1) + error


def test_the_conformal_threshold_is_the_one_computed_by_hand():
    own = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    probabilities = np.stack([own, 1 - own], axis=1)
    labels = np.zeros(9, int)
    assert conformal_threshold(labels, probabilities, 0.5) == 0.5  # the fifth of ten places
    assert conformal_threshold(labels, probabilities, 0.9) == 0.1  # the ninth
    assert conformal_threshold(labels, probabilities, 0.95) == 0  # the tenth is not there: any class may be


def test_a_set_has_all_classes_that_are_likely_enough_and_never_none():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.2, 0.2, 0.6]])
    assert conformal_sets(probabilities, 0.3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert conformal_sets(probabilities, 0.7).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert conformal_sets(probabilities, 0.0).all()


def test_sets_keep_the_promise_where_the_network_is_right_less_often_than_that():
    logits, labels = calibrated(20000)
    probabilities = softmax(logits)
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.8
    sets = conformal_sets(probabilities[10000:], conformal_threshold(labels[:10000], probabilities[:10000], 0.9))
    assert sets[np.arange(10000), labels[10000:]].mean() == pytest.approx(0.9, abs=0.015)
    assert 1 < sets.sum(axis=1).mean() < 3


def test_sets_are_scored_by_class():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    table = score_sets(np.array([0, 0, 1, 1]), sets, ["a", "b", "c"])
    assert table["Class"].tolist() == ["a", "b", "c"]
    assert table["Set_coverage"].tolist()[:2] == [1, 0.5]
    assert table["Set_size"].tolist()[:2] == [1.5, 1]
    assert table.iloc[2, 1:].isna().all()  # no crop of it
