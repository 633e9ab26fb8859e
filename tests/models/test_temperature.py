import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_scores import calibrated
from sklearn.metrics import log_loss

from nuclei.evaluation.metrics import calibration_error
from nuclei.models.temperature import fit_temperature, softmax


def test_softmax_of_large_logits_is_finite():
    logits = np.array([[1000, 1000, -1000], [np.log(1), np.log(2), np.log(5)]], np.float32)
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0], [1 / 8, 2 / 8, 5 / 8]], atol=1e-7)


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_the_temperature_undoes_a_network_that_is_too_sure_or_not_sure_enough(factor):
    logits, labels = calibrated(20000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)
    scaled = softmax(factor * logits / fit_temperature(factor * logits, labels))
    assert calibration_error(labels, scaled, bins=10) < 0.01


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_no_other_temperature_is_likelier(seed):
    logits, labels = calibrated(50, seed)
    best = fit_temperature(logits, labels)
    loss = log_loss(labels, softmax(logits / best), labels=range(4))
    for other in (best * 0.99, best * 1.01, 0.5, 1.0, 2.0):
        if 0.05 <= other <= 20:
            assert loss <= log_loss(labels, softmax(logits / other), labels=range(4)) + 1e-9


def test_a_fold_without_errors_or_with_nothing_but_errors_has_a_temperature_too():
    logits = 0.5 * np.eye(4, dtype=np.float32)
    assert fit_temperature(logits, np.arange(4)) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(logits, np.arange(4)[::-1]) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize("classes", [2, 30])
def test_the_temperature_is_the_best_of_a_grid(classes):
    logits, labels = calibrated(200, 3, classes)
    grid = np.geomspace(0.05, 20, 2001)
    losses = [-np.log(softmax(logits, temperature)[np.arange(200), labels]).mean() for temperature in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=0.004)
