"""Simulated studies: do the intervals hold the truth, and are equal networks told apart, as often as they may?"""

import sys

import numpy as np
import pandas as pd
import pytest

from nuclei.evaluation.comparison import compare
from nuclei.evaluation.intervals import score_intervals, unit_interval
from nuclei.evaluation.metrics import score, scores_without_each_group
from tools.clone import ROOT
from tools.coverage import ACCURACIES, SETTINGS, effective, equal_networks, group_sizes, interval_coverage, main

STUDIES = 3000  # standard error of a share of 0.95: 0.004


@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_hold_the_truth_as_often_as_they_say(setting):
    """Not less than 0.93, and at a middling accuracy not more than 0.97.

    At 0.95 most groups are nearly free of errors and few are not: the low end then holds the truth in nearly every
    study or misses it in a tenth of them, and it has to be the former.
    """
    for (mean, icc), most in zip(ACCURACIES, (0.97, 1), strict=True):
        coverage = interval_coverage(group_sizes(setting), mean, icc, STUDIES, seed=1)
        assert 0.93 - 0.012 <= coverage <= most + 0.012


@pytest.mark.parametrize("setting", SETTINGS)
def test_equal_networks_are_rarely_called_different(setting):
    for mean, icc in ACCURACIES:
        shares = equal_networks(group_sizes(setting), mean, icc, 1500, seed=1)
        assert shares.false_verdicts <= 0.06 + 0.012
        assert shares.coverage >= 0.93


def test_a_difference_between_networks_is_found_where_groups_suffice():
    """The test above would pass if no difference was ever called significant."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(140), group_sizes("overlap groups of all folds"))
    labels = rng.integers(0, 2, len(groups))
    first, second = (np.where(rng.random(len(groups)) < accuracy, labels, 1 - labels) for accuracy in (0.8, 0.9))
    result = compare(labels, {"CNN": first, "ResNet18": second}, groups, ["a", "b"])
    assert result["verdict"].startswith("The difference is significant at the 5 % level: ")


def test_what_is_simulated_is_the_interval_that_is_reported():
    rng = np.random.default_rng(0)
    sizes = group_sizes("patients of a fold")
    group = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.integers(0, 2, len(group))
    probabilities = rng.dirichlet([1, 1], len(group)) + 0.3 * np.eye(2)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    intervals = score_intervals(labels, probabilities, group, ["a", "b"])
    value = np.float64(score(labels, probabilities, bins=10)["accuracy"])
    without = scores_without_each_group(labels, probabilities, group)["accuracy"]
    low, high = unit_interval(value, without, effective(sizes))
    assert (intervals["accuracy_low"], intervals["accuracy_high"]) == pytest.approx((float(low), float(high)))


def test_the_settings_are_those_of_the_data_sets():
    groups = pd.read_csv(ROOT / "benchmarks/results/kaggle/groups_cnn.csv")
    assert list(SETTINGS["overlap groups of all folds"]) == sorted(groups["Crops"], reverse=True)
    assert (len(groups), sum(groups["Crops"])) == (140, 7560)
    assert effective(group_sizes("overlap groups of all folds")) == pytest.approx(24.5, abs=0.1)
    assert (len(SETTINGS["overlap groups of a fold"]), sum(SETTINGS["overlap groups of a fold"])) == (58, 1390)
    assert effective(group_sizes("overlap groups of a fold")) == pytest.approx(6.1, abs=0.1)


def test_the_command_prints_a_table_with_a_row_per_setting(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coverage", "--studies", "20"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(SETTINGS)
    assert len({line.count("|") for line in lines}) == 1
