import json

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from test_metrics import predictions

from nuclei.evaluation.intervals import FEWEST_GROUPS, jackknife_variance, score_intervals, unit_interval
from nuclei.evaluation.metrics import METRICS, effective_groups, score

NAMES = ["a", "b", "c", "d"]
WITH_INTERVAL = [metric for metric in METRICS if metric != "ece"]


def binary(correct):
    """Probabilities of two classes for crops of class 0, correct or not: labels, probabilities."""
    return np.zeros(len(correct), int), np.where(np.asarray(correct)[:, None], [0.9, 0.1], [0.1, 0.9])


@pytest.mark.parametrize("classes", [2, 4, 30])
def test_every_interval_holds_its_score_and_can_be_written_as_json(classes):
    labels, probabilities = predictions(1, 900, classes)
    groups = np.random.default_rng(2).choice([f"tile {i}" for i in range(12)], 900)
    names = [f"class {label}" for label in range(classes)]
    intervals = json.loads(json.dumps(score_intervals(labels, probabilities, groups, names), allow_nan=False))
    scores = score(labels, probabilities, bins=10)
    for metric in WITH_INTERVAL:
        low, high = intervals[f"{metric}_low"], intervals[f"{metric}_high"]
        assert 0 <= low < scores[metric] < high
        assert high <= 1 or metric in ("log_loss", "brier")
    assert intervals["intervals_withheld"] == ""
    assert (intervals["crops"], intervals["groups"]) == (900, 12)
    assert intervals["effective_groups"] == pytest.approx(effective_groups(groups))
    assert intervals["class_groups"] == {name: len(set(groups[labels == label])) for label, name in enumerate(names)}
    assert not any(key.startswith("ece") for key in intervals)


def test_many_groups_of_a_crop_each_give_the_textbook_interval():
    labels, probabilities = binary(np.arange(4000) % 5 > 0)
    intervals = score_intervals(labels, probabilities, np.arange(4000), ["a", "b"])
    error = np.sqrt(0.8 * 0.2 / 4000) / (0.8 * 0.2)
    assert intervals["accuracy_low"] == pytest.approx(expit(logit(0.8) - 1.96 * error), abs=2e-4)
    assert intervals["accuracy_high"] == pytest.approx(expit(logit(0.8) + 1.96 * error), abs=2e-4)


def test_the_jackknife_of_a_mean_of_equal_groups_is_the_standard_error():
    means = np.array([0.9, 0.7, 0.8, 0.95, 0.6])
    without = (means.sum() - means) / 4
    assert jackknife_variance(means.mean(), without) == pytest.approx(means.var(ddof=1) / 5)


def test_crops_of_a_group_that_are_alike_widen_the_interval():
    """Groups of 25 that are right or wrong together are 16 observations, not 400: about five times the width."""
    correct = np.repeat(np.arange(16) % 4 < 3, 25)
    labels, probabilities = binary(correct)
    widths = []
    for groups in (np.repeat(np.arange(16), 25), np.arange(400)):
        intervals = score_intervals(labels, probabilities, groups, ["a", "b"])
        widths.append(intervals["accuracy_high"] - intervals["accuracy_low"])
    assert 4 < widths[0] / widths[1] < 6.5


def test_many_tiny_groups_beside_a_few_large_ones_do_not_narrow_the_interval():
    """53 crops of 53 groups beside five large groups are not the information of 58 groups."""
    large = np.repeat(np.arange(6), 200)
    correct = np.concatenate([np.arange(200) < count for count in (190, 180, 150, 170, 120, 185)])
    labels, probabilities = binary(np.concatenate([correct, np.ones(53, bool)]))
    few = score_intervals(labels[:1200], probabilities[:1200], large, ["a", "b"])
    many = score_intervals(labels, probabilities, np.concatenate([large, 6 + np.arange(53)]), ["a", "b"])
    assert many["groups"] == 59 and many["effective_groups"] < 7
    width = few["accuracy_high"] - few["accuracy_low"]
    assert many["accuracy_high"] - many["accuracy_low"] > 0.8 * width


@pytest.mark.parametrize("groups", [np.full(40, "tile"), np.arange(40) % 4, np.minimum(np.arange(40), 10)])
def test_fewer_than_five_effective_groups_have_no_interval_and_the_reason_is_given(groups):
    labels, probabilities = predictions(0, 40)
    intervals = score_intervals(labels, probabilities, groups, NAMES)
    assert all(intervals[f"{metric}_{end}"] is None for metric in WITH_INTERVAL for end in ("low", "high"))
    assert intervals["effective_groups"] < FEWEST_GROUPS
    assert f"worth {intervals['effective_groups']:.1f} groups of equal size" in intervals["intervals_withheld"]


def test_a_class_in_four_groups_has_no_interval_of_means_over_classes():
    labels, probabilities = predictions(3, 400)
    groups = np.where(labels == 2, np.arange(400) // 4 % 4, np.arange(400) // 4 % 10)
    intervals = score_intervals(labels, probabilities, groups, NAMES)
    for metric in ("balanced_accuracy", "macro_f1", "auc"):
        assert intervals[f"{metric}_low"] is None and intervals[f"{metric}_high"] is None
    assert intervals["accuracy_low"] < intervals["accuracy_high"]
    assert intervals["log_loss_low"] < intervals["log_loss_high"]
    assert intervals["class_groups"]["c"] == 4
    assert intervals["intervals_withheld"].endswith("unlike c (in 4).")


def test_crops_of_one_class_have_no_auc_and_still_an_interval_of_accuracy():
    labels, probabilities = binary(np.arange(80) % 7 > 0)
    intervals = score_intervals(labels, probabilities, np.arange(80) % 8, ["a", "b"])
    assert intervals["auc_low"] is None and "fewer than two classes" in intervals["intervals_withheld"]
    assert intervals["accuracy_low"] is not None


def test_no_error_at_all_is_not_a_promise_of_none():
    labels = np.arange(200) % 2
    intervals = score_intervals(labels, np.eye(2)[labels], np.arange(200) // 25, ["a", "b"])
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auc"):
        assert intervals[f"{metric}_low"] == pytest.approx(0.05 ** (1 / 8))  # eight groups, none with an error
        assert intervals[f"{metric}_high"] == 1
    for metric in ("log_loss", "brier"):
        assert intervals[f"{metric}_low"] == pytest.approx(0, abs=1e-9) and intervals[f"{metric}_high"] > 0.01


def test_nothing_but_errors_is_the_mirror_image():
    low, high = unit_interval(np.array([0.0, 1.0]), np.array([[0.0] * 8, [1.0] * 8]), 8)
    assert low[0] == 0 and high[1] == 1 and high[0] == pytest.approx(1 - low[1])
    low, high = unit_interval(np.array([0.1, 0.9]), np.array([[0.08, 0.12] * 4, [0.92, 0.88] * 4]), 8)
    assert (low[0], high[0]) == pytest.approx((1 - high[1], 1 - low[1]))


def test_a_single_error_among_eight_groups_leaves_much_open():
    correct = np.arange(232) > 0
    intervals = score_intervals(*binary(correct), np.arange(232) // 29, ["a", "b"])
    assert intervals["accuracy_low"] < 0.95 and intervals["accuracy_high"] > 231 / 232


def test_without_the_pseudo_group_the_interval_is_the_plain_one_to_come_near_to():
    """For middling scores of many groups the pseudo-group hardly matters."""
    rng = np.random.default_rng(0)
    means = rng.beta(3, 3, 200)
    without = (means.sum() - means) / 199
    value = means.mean()
    margin = t.ppf(0.975, 199) * np.sqrt(jackknife_variance(value, without)) / (value * (1 - value))
    assert unit_interval(value, without, 200) == pytest.approx(
        (expit(logit(value) - margin), expit(logit(value) + margin)), abs=1e-3
    )
