import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
)

from nuclei.evaluation.metrics import (
    METRICS,
    calibration_error,
    effective_groups,
    score,
    score_classes,
    score_groups,
    scores_without_each_group,
)
from nuclei.models.temperature import softmax

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
    # Squares of 1 - p for the label and p for the others
    squares = [0.04 + 0.01 + 0.01, 0.16 + 0.09 + 0.01, 0.64 + 0.49 + 0.01, 0.01 + 0.04 + 0.01, 0.09 + 0.81 + 0.36, 0]
    assert scores["brier"] == pytest.approx(np.mean(squares))
    # Bins of 0.8 and above, of 0.7, of 0.6, of 1: sums of hits less sums of confidences
    assert scores["ece"] == pytest.approx((abs(2 - 1.6) + abs(0 - 0.7) + abs(1 - 1.2) + abs(1 - 1)) / 6)


def test_scores_are_plain_numbers_that_json_can_hold():
    assert all(type(value) is float for value in score(LABELS, PROBABILITIES, bins=10).values())


def test_a_perfect_prediction_has_perfect_scores():
    scores = score(LABELS, np.eye(3)[LABELS], bins=5)
    assert scores == pytest.approx(
        {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "auc": 1, "log_loss": 0, "brier": 0, "ece": 0}, abs=1e-9
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


def test_each_class_has_its_row():
    table = score_classes(LABELS, PROBABILITIES, np.array(["x", "x", "y", "y", "z", "x"]), ["a", "b", "c"])
    assert table["Class"].tolist() == ["a", "b", "c"]
    assert table["Precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["Recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["F1"].tolist() == pytest.approx([0.8, 0.5, 2 / 3])
    assert table["Crops"].tolist() == [3, 2, 1]
    assert table["Groups"].tolist() == [2, 2, 1]
    assert table["Effective_groups"].tolist() == pytest.approx([9 / 5, 2, 1])


def test_a_class_that_is_never_predicted_scores_zero():
    probabilities = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0]])
    table = score_classes(np.array([0, 1]), probabilities, np.array([0, 1]), ["a", "b", "c"])
    assert table["Precision"].tolist() == [0.5, 0, 0]
    assert table["F1"].tolist() == pytest.approx([2 / 3, 0, 0])
    assert table["Crops"].tolist() == [1, 1, 0]
    assert table["Effective_groups"].tolist() == [1, 1, 0]


def predictions(seed, n, classes=4, skill=1.5, decimals=None):
    """Labels, every class among them, and probabilities that know something of them; rounded ones have ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    probabilities = softmax(rng.normal(size=(n, classes)) + skill * np.eye(classes)[labels])
    if decimals is not None:
        probabilities = probabilities.round(decimals) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities


@given(st.integers(0, 10**6), st.integers(30, 90), st.integers(2, 30), st.sampled_from([None, 2, 1]))
@settings(max_examples=25, deadline=None)
def test_scores_are_scikit_learns(seed, n, classes, decimals):
    labels, probabilities = predictions(seed, n, classes, decimals=decimals)
    predicted = probabilities.argmax(axis=1)
    scores = score(labels, probabilities, bins=10)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["auc"] == pytest.approx(
        np.mean([roc_auc_score(labels == label, probabilities[:, label]) for label in range(classes)])
    )
    assert scores["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)))
    brier = brier_score_loss(labels, probabilities, labels=range(classes), scale_by_half=False)
    assert scores["brier"] == pytest.approx(brier)
    assert scores["ece"] == pytest.approx(calibration_error(labels, probabilities, bins=10))


def test_a_missing_class_is_left_out_of_the_means():
    labels, probabilities = predictions(0, 60)
    some = labels != 2
    scores = score(labels[some], probabilities[some], bins=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predictions of a class that does not occur
        expected = balanced_accuracy_score(labels[some], probabilities[some].argmax(axis=1))
    assert scores["balanced_accuracy"] == pytest.approx(expected)
    aucs = [roc_auc_score(labels[some] == label, probabilities[some, label]) for label in (0, 1, 3)]
    assert scores["auc"] == pytest.approx(np.mean(aucs))
    assert np.isnan(score(labels[labels == 1], probabilities[labels == 1], bins=10)["auc"])


@given(st.integers(0, 10**6), st.integers(12, 80), st.integers(2, 6), st.sampled_from([None, 1]))
@settings(max_examples=40, deadline=None)
def test_leaving_out_a_group_scores_the_other_crops(seed, n, classes, decimals):
    labels, probabilities = predictions(seed, n, classes, decimals=decimals)
    group = np.random.default_rng(seed).permutation(np.arange(n) % 7 % 5)  # unequal groups
    without = scores_without_each_group(labels, probabilities, group)
    assert set(without) == set(METRICS) - {"ece"}
    for left_out in range(5):
        kept = group != left_out
        expected = score(labels[kept], probabilities[kept], bins=10)
        for metric, values in without.items():
            assert values[left_out] == pytest.approx(expected[metric], nan_ok=True)


def test_a_group_that_alone_has_a_class_leaves_means_over_the_other_classes():
    labels, probabilities = predictions(0, 60)
    group = np.where(labels == 2, 0, 1 + np.arange(60) % 3)
    kept = labels != 2
    expected = score(labels[kept], probabilities[kept], bins=10)
    without = scores_without_each_group(labels, probabilities, group)
    for metric in ("balanced_accuracy", "macro_f1", "auc"):
        assert without[metric][0] == pytest.approx(expected[metric])


def test_effective_groups_are_all_groups_only_if_these_are_equally_large():
    assert effective_groups(np.repeat(list("abcde"), 7)) == pytest.approx(5)
    assert effective_groups(np.full(9, "tile")) == 1
    fold = np.repeat(np.arange(58), [365, 255, 214, 204, 165] + [5] * 28 + [1] * 25)
    assert 5.9 < effective_groups(fold) < 6.1
    assert effective_groups(np.array([])) == 0


def test_each_group_has_its_row_the_largest_first():
    labels, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
    table = score_groups(labels, predicted, np.array(["t9", "t1", "t1", "t1", "t1", "t9"]), ["a", "b", "c"])
    assert table.columns.tolist() == ["Group", "Crops", "Accuracy", "a", "b", "c"]
    assert table["Group"].tolist() == ["t1", "t9"]
    assert table["Crops"].tolist() == [4, 2]
    assert table["Accuracy"].tolist() == [0.5, 1]
    assert table[["a", "b", "c"]].to_numpy().tolist() == [[1, 3, 0], [1, 0, 1]]
