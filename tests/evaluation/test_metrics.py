import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from nuclei.evaluation.metrics import (
    METRICS,
    calibration_error,
    compare,
    draw_resamples,
    mean_and_spread,
    score,
    score_classes,
    score_intervals,
)
from nuclei.models.predict import softmax

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


def predictions(seed, n, classes=4, skill=1.5, decimals=None):
    """Labels, every class among them, and probabilities that know something of them; rounded ones have ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    probabilities = softmax(rng.normal(size=(n, classes)) + skill * np.eye(classes)[labels])
    if decimals is not None:
        probabilities = probabilities.round(decimals) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities


@given(st.integers(0, 10**6), st.integers(4, 60), st.sampled_from([None, 2, 1]))
@settings(max_examples=60, deadline=None)
def test_scores_are_scikit_learns(seed, n, decimals):
    labels, probabilities = predictions(seed, n, decimals=decimals)
    predicted = probabilities.argmax(axis=1)
    scores = score(labels, probabilities, bins=10)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert scores["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(4)))
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


def test_an_interval_is_the_percentiles_of_the_scores_of_resampled_groups():
    labels, probabilities = predictions(1, 60)
    groups = np.random.default_rng(2).choice(["a", "b", "c", "d", "e", "f", "g"], 60)
    resamples = draw_resamples(groups, 150, seed=0)
    rows = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    drawn = []
    for counts in resamples:
        chosen = np.concatenate([np.tile(some, times) for some, times in zip(rows, counts, strict=True)])
        drawn.append(score(labels[chosen], probabilities[chosen], bins=10))
    intervals = score_intervals(labels, probabilities, groups, resamples, bins=10)
    for metric in METRICS:
        low, high = np.nanquantile([scores[metric] for scores in drawn], [0.025, 0.975])
        assert (intervals[f"{metric}_low"], intervals[f"{metric}_high"]) == pytest.approx((low, high))
    assert (intervals["crops"], intervals["groups"]) == (60, 7)


def test_many_resamples_are_scored_in_parts_with_the_same_result(monkeypatch):
    labels, probabilities = predictions(1, 60)
    groups = np.arange(60) // 5
    resamples = draw_resamples(groups, 500, seed=0)
    whole = score_intervals(labels, probabilities, groups, resamples, bins=10)
    monkeypatch.setattr("nuclei.evaluation.metrics.VALUES_AT_ONCE", 60 * 7)
    assert score_intervals(labels, probabilities, groups, resamples, bins=10) == pytest.approx(whole)


def test_resamples_draw_as_many_groups_as_there_are_each_as_often():
    resamples = draw_resamples(np.array(["b", "a", "b", "c"]), 4000, seed=3)
    assert resamples.shape == (4000, 3) and (resamples.sum(axis=1) == 3).all()
    np.testing.assert_allclose(resamples.mean(axis=0), 1, atol=0.05)
    assert np.array_equal(resamples, draw_resamples(np.array([5, 1, 9]), 4000, seed=3))
    assert not np.array_equal(resamples, draw_resamples(np.array([5, 1, 9]), 4000, seed=4))


def test_the_interval_of_independent_crops_is_the_binomial_one():
    labels = np.zeros(400, int)
    probabilities = np.where(np.arange(400)[:, None] < 300, [0.9, 0.1], [0.1, 0.9])  # 75 % right
    intervals = score_intervals(labels, probabilities, np.arange(400), draw_resamples(np.arange(400), 4000, 0), bins=10)
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert intervals["accuracy_low"] == pytest.approx(0.75 - error, abs=0.005)
    assert intervals["accuracy_high"] == pytest.approx(0.75 + error, abs=0.005)


def test_crops_of_a_group_that_are_alike_widen_the_interval_as_theory_says():
    """Groups of 25 that are right or wrong as one are 16 observations, not 400: five times the standard error."""
    right = np.arange(16) % 4 < 3
    probabilities = np.where(np.repeat(right, 25)[:, None], [0.9, 0.1], [0.1, 0.9])
    labels, groups = np.zeros(400, int), np.repeat(np.arange(16), 25)
    widths = []
    for unit in (groups, np.arange(400)):
        intervals = score_intervals(labels, probabilities, unit, draw_resamples(unit, 4000, 0), bins=10)
        widths.append(intervals["accuracy_high"] - intervals["accuracy_low"])
    assert widths[0] / widths[1] == pytest.approx(5, rel=0.1)


def test_intervals_hold_the_true_accuracy_about_as_often_as_they_say():
    """Patients differ (their accuracies are drawn from a beta distribution); 40 of them a study, 150 studies."""
    rng = np.random.default_rng(0)
    held = 0
    for study in range(150):
        groups = np.repeat(np.arange(40), 10)
        right = rng.random(400) < np.repeat(rng.beta(4, 1, 40), 10)
        probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        intervals = score_intervals(
            np.zeros(400, int), probabilities, groups, draw_resamples(groups, 400, study), bins=10
        )
        held += intervals["accuracy_low"] <= 0.8 <= intervals["accuracy_high"]
    assert 0.88 <= held / 150 <= 0.99


def test_resamples_that_lack_a_class_are_counted():
    labels, groups = np.array([0, 1, 1, 1]), np.arange(4)  # class 0 is in one group of four
    probabilities = np.eye(2)[labels]
    intervals = score_intervals(labels, probabilities, groups, draw_resamples(groups, 20000, 0), bins=10)
    all_ones, all_zeros = (3 / 4) ** 4, (1 / 4) ** 4
    assert intervals["resamples_lacking_a_class"] == pytest.approx(all_ones + all_zeros, abs=0.01)
    assert (intervals["auc_low"], intervals["balanced_accuracy_low"]) == (1, 1)  # not less for what was not drawn


def test_a_single_group_has_no_interval():
    labels, probabilities = predictions(0, 20)
    one = np.full(20, "tile")
    intervals = score_intervals(labels, probabilities, one, draw_resamples(one, 100, 0), bins=10)
    assert all(intervals[f"{metric}_{end}"] is None for metric in METRICS for end in ("low", "high"))
    assert intervals["groups"] == 1


def guesses(right, wrong_in_first, wrong_in_second):
    """Labels and two models' predictions: so many right in both, wrong in one of them."""
    n = right + wrong_in_first + wrong_in_second
    labels, first, second = np.arange(n) % 2, np.arange(n) % 2, np.arange(n) % 2
    first[right : right + wrong_in_first] ^= 1
    second[right + wrong_in_first :] ^= 1
    return labels, {"CNN": first, "ResNet18": second}


def compared(labels, predicted, groups):
    return compare(labels, predicted, groups, draw_resamples(groups, 2000, seed=0))


def test_mcnemars_test_counts_the_crops_that_one_model_alone_gets_right():
    result = compared(*guesses(80, 10, 2), np.arange(92))
    assert result["right_alone"] == {"CNN": 2, "ResNet18": 10}
    assert result["mcnemar_p"] == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # two tails of at most 2 heads in 12
    assert result["accuracy_difference"] == pytest.approx(8 / 92)


def test_the_interval_of_the_difference_is_that_of_paired_crops():
    labels, predicted = guesses(300, 70, 30)
    result = compared(labels, predicted, np.arange(400))
    difference = (predicted["ResNet18"] == labels) * 1.0 - (predicted["CNN"] == labels)
    error = 1.96 * difference.std() / np.sqrt(400)
    assert result["accuracy_difference_low"] == pytest.approx(0.1 - error, abs=0.006)
    assert result["accuracy_difference_high"] == pytest.approx(0.1 + error, abs=0.006)
    assert result["balanced_accuracy_difference"] == pytest.approx(0.1)


def test_a_clear_difference_is_called_one_and_the_better_model_is_named():
    result = compared(*guesses(300, 70, 30), np.arange(400))
    assert result["is_it_luck"].startswith("Probably not: ResNet18 gets 10.0 points more of the 400 held-out crops")
    labels, predicted = guesses(300, 30, 70)
    result = compared(labels, predicted, np.arange(400))
    assert result["is_it_luck"].startswith("Probably not: ResNet18 gets 10.0 points fewer of the 400 held-out crops")


def test_a_small_difference_may_be_luck():
    assert compared(*guesses(90, 6, 4), np.arange(100))["is_it_luck"].startswith("It may be: ResNet18 gets 2.0 points")
    assert "get the same number" in compared(*guesses(90, 5, 5), np.arange(100))["is_it_luck"]
    assert compared(*guesses(90, 0, 0), np.arange(90))["mcnemar_p"] == 1


def test_a_difference_that_one_tile_makes_is_luck_whatever_mcnemar_says():
    labels, predicted = guesses(300, 40, 0)
    groups = np.concatenate([np.arange(300) % 9, np.full(40, 9)])  # all the 40 crops are of one tile
    result = compared(labels, predicted, groups)
    assert result["mcnemar_p"] < 1e-9
    assert result["accuracy_difference_low"] == 0 and result["is_it_luck"].startswith("It may be: ")


@pytest.mark.parametrize("n_groups", [1, 2, 5])
def test_a_handful_of_tiles_cannot_tell(n_groups):
    labels, predicted = guesses(30, 70, 0)
    result = compared(labels, predicted, np.arange(100) % n_groups)
    assert result["is_it_luck"].startswith("Cannot be told: ResNet18 gets 70.0 points more")
    assert f"{n_groups} groups" in result["is_it_luck"]


def test_mean_and_spread_are_over_the_folds():
    scores = pd.DataFrame({metric: [0.5, 0.7, 0.9] for metric in METRICS} | {"fold": [0, 1, 2]})
    scores.loc[1, "auc"] = np.nan  # of a fold with a single class
    summary = mean_and_spread(scores)
    assert summary["accuracy"] == pytest.approx({"mean": 0.7, "spread": 0.2})
    assert summary["auc"] == pytest.approx({"mean": 0.7, "spread": np.sqrt(0.08)})
    assert mean_and_spread(scores.assign(auc=np.nan))["auc"] == {"mean": None, "spread": None}
