import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_scores import calibrated

from nuclei.evaluation.calibration import accuracy_coverage_curve, expected_ece, reliability_curve
from nuclei.evaluation.metrics import calibration_error
from nuclei.models.temperature import softmax


def test_the_reliability_curve_has_the_means_of_each_bin():
    probabilities = np.array([[0.95, 0.05], [0.91, 0.09], [0.55, 0.45], [1.0, 0.0]])
    table = reliability_curve(np.array([0, 1, 1, 0]), probabilities, bins=10, seed=0, draws=50)
    assert table.columns.tolist() == ["confidence", "accuracy", "crops", "low", "high"]
    assert table["confidence"].tolist() == pytest.approx([0.55, (0.95 + 0.91 + 1) / 3])
    assert table["accuracy"].tolist() == pytest.approx([0, 2 / 3])
    assert table["crops"].tolist() == [1, 3]


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_the_reliability_curve_adds_up_to_the_calibration_error(seed, n, bins):
    logits, labels = calibrated(n, seed)
    table = reliability_curve(labels, softmax(logits), bins, seed=0, draws=20)
    gap = (table["confidence"] - table["accuracy"]).abs()
    assert (gap * table["crops"]).sum() / n == pytest.approx(calibration_error(labels, softmax(logits), bins))
    assert table["crops"].sum() == n


def test_the_accuracy_coverage_curve_selects_the_most_confident_first():
    confidence = np.array([0.6, 0.9, 0.8, 0.7])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    table = accuracy_coverage_curve(np.array([1, 0, 1, 0]), probabilities)
    assert table["selected_fraction"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert table["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_crops_of_equal_confidence_are_selected_together():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    probabilities[3] = [0.9, 0.1]
    table = accuracy_coverage_curve(np.array([1] * 5 + [0] * 5), probabilities)
    assert table["selected_fraction"].tolist() == [0.1, 1]
    assert table["accuracy"].tolist() == [0, 0.5]


@given(st.integers(0, 10**6), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_every_point_of_the_accuracy_coverage_curve_is_reached_by_its_threshold(seed, n):
    logits, labels = calibrated(n, seed)
    probabilities = softmax(logits).round(2)
    table = accuracy_coverage_curve(labels, probabilities)
    assert (
        len(table) <= 100
        and table["selected_fraction"].is_monotonic_increasing
        and table["selected_fraction"].iloc[-1] == 1
    )
    for row in table.itertuples():
        selected = probabilities.max(axis=1) >= row.threshold
        assert selected.mean() == pytest.approx(row.selected_fraction)
        assert (probabilities.argmax(axis=1) == labels)[selected].mean() == pytest.approx(row.accuracy)


def test_the_band_holds_the_accuracy_of_calibrated_probabilities_and_not_of_overconfident_ones():
    inside = []
    for factor in (1, 2):
        logits, labels = calibrated(4000)
        table = reliability_curve(labels, softmax(factor * logits), bins=10, seed=0, draws=400)
        inside.append(table["accuracy"].between(table["low"], table["high"]).mean())
    assert inside[0] > 0.8 and inside[1] < 0.4


def test_the_expected_ece_is_what_calibrated_networks_get():
    """Over 200 calibrated networks: their mean ece is the expected one, and about 95 % are in its range."""
    errors, expected = [], []
    for seed in range(200):
        logits, labels = calibrated(230, seed)
        errors.append(calibration_error(labels, softmax(logits), bins=10))
        expected.append(expected_ece(softmax(logits), bins=10, seed=seed, draws=200))
    means, lows, highs = np.transpose(expected)
    assert means.mean() == pytest.approx(np.mean(errors), rel=0.05)
    assert 0.9 <= ((lows <= errors) & (errors <= highs)).mean() <= 0.99
    assert means.min() > 0.01  # not 0, although calibration is perfect


def test_an_overconfident_network_has_more_than_the_expected_ece():
    logits, labels = calibrated(2000)
    probabilities = softmax(2 * logits)
    assert calibration_error(labels, probabilities, bins=10) > expected_ece(probabilities, 10, seed=0, draws=200).high


def test_the_expected_ece_is_the_same_for_the_same_seed():
    probabilities = softmax(calibrated(100)[0])
    assert expected_ece(probabilities, 10, seed=1, draws=50) == expected_ece(probabilities, 10, seed=1, draws=50)
    assert expected_ece(probabilities, 10, seed=1, draws=50) != expected_ece(probabilities, 10, seed=2, draws=50)
