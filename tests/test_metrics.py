import numpy as np
import pytest

from nuclei.metrics import calibration_error, score, score_classes, softmax

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.2, 0.7, 0.1],  # wrong
        [0.1, 0.8, 0.1],
        [0.3, 0.1, 0.6],  # wrong
        [0.0, 0.0, 1.0],
    ]
)


def test_scores_are_those_computed_by_hand():
    scores = score(LABELS, PROBABILITIES, bins=10)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # F1: class 0: precision 1, recall 2/3; class 1: 1/2 and 1/2; class 2: 1/2 and 1
    assert scores["macro_f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    # Pairs in order, of each class against the rest: 8 of 9; 5.5 of 8; 5 of 5
    assert scores["auc"] == pytest.approx((8 / 9 + 5.5 / 8 + 1) / 3)
    assert scores["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.2, 0.8, 0.1, 1.0]).mean(), abs=1e-12)
    # Bins of 0.8 and above, of 0.7, of 0.6, of 1: sums of hits less sums of confidences
    assert scores["ece"] == pytest.approx((abs(2 - 1.6) + abs(0 - 0.7) + abs(1 - 1.2) + abs(1 - 1)) / 6)


def test_scores_are_plain_numbers_that_json_can_hold():
    assert all(type(value) is float for value in score(LABELS, PROBABILITIES, bins=10).values())


def test_a_perfect_prediction_has_perfect_scores():
    scores = score(LABELS, np.eye(3)[LABELS], bins=5)
    assert scores == pytest.approx(
        {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "auc": 1, "log_loss": 0, "ece": 0}, abs=1e-9
    )


def test_calibration_error_sees_overconfidence():
    sure = np.tile([0.9, 0.1], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration_error(labels, sure, bins=10) == pytest.approx(0.3)
    assert calibration_error(np.array([0] * 9 + [1]), sure, bins=10) == pytest.approx(0)
    # In one bin, too sure and too unsure cancel out; in ten they do not.
    mixed = np.array([[1.0, 0.0], [0.6, 0.4]])
    assert calibration_error(np.array([1, 0]), mixed, bins=10) == pytest.approx((1.0 + 0.4) / 2)
    assert calibration_error(np.array([1, 0]), mixed, bins=2) == pytest.approx(0.6 / 2)


def test_softmax_of_large_logits_is_finite():
    logits = np.array([[1000, 1000, -1000], [np.log(1), np.log(2), np.log(5)]], np.float32)
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0], [1 / 8, 2 / 8, 5 / 8]], atol=1e-7)


def test_each_class_has_its_row():
    table = score_classes(LABELS, PROBABILITIES, ["a", "b", "c"])
    assert table["Class"].tolist() == ["a", "b", "c"]
    assert table["Precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["Recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["F1"].tolist() == pytest.approx([0.8, 0.5, 2 / 3])
    assert table["Crops"].tolist() == [3, 2, 1]


def test_a_class_that_is_never_predicted_scores_zero():
    table = score_classes(np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.9, 0.1, 0]]), ["a", "b", "c"])
    assert table["Precision"].tolist() == [0.5, 0, 0]
    assert table["F1"].tolist() == pytest.approx([2 / 3, 0, 0])
    assert table["Crops"].tolist() == [1, 1, 0]
