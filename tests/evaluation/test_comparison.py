import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.evaluation.comparison import compare, sign_flip_p

NAMES = ["a", "b"]


def predictions_of_two(both_correct, first_wrong, second_wrong):
    """Labels and two networks' predictions: so many crops correct in both, wrong in one of them."""
    n = both_correct + first_wrong + second_wrong
    labels, first, second = np.arange(n) % 2, np.arange(n) % 2, np.arange(n) % 2
    first[both_correct : both_correct + first_wrong] ^= 1
    second[both_correct + first_wrong :] ^= 1
    return labels, {"CNN": first, "ResNet18": second}


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=11))
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_the_share_of_all_sign_flips(difference):
    sums = [abs(np.dot(signs, difference)) for signs in itertools.product((-1, 1), repeat=len(difference))]
    assert sign_flip_p(np.array(difference)) == pytest.approx(np.mean(np.array(sums) >= abs(sum(difference))))


def test_the_p_value_of_many_groups_is_that_of_the_normal_distribution():
    assert sign_flip_p(np.concatenate([np.full(5100, 1), np.full(4900, -1)])) == pytest.approx(0.0466, abs=0.0005)


def test_a_p_value_is_never_zero():
    assert 0 < sign_flip_p(np.full(3000, 7)) < 1e-12
    assert sign_flip_p(np.zeros(5, int)) == 1


def test_group_differences_of_eight_tiles_are_not_significant():
    """The group differences of the sample's two networks: exact p = 0.125, and only four groups differ."""
    difference = np.array([-5, -1, 0, -2, -1, 0, 0, 0])
    assert sign_flip_p(difference) == pytest.approx(0.125)
    labels, predicted = predictions_of_two(221, 0, 9)
    groups = np.concatenate([np.arange(221) % 8, np.repeat(np.arange(8), -difference)])
    result = compare(labels, predicted, groups, NAMES)
    assert result["p_value"] == pytest.approx(0.125) and result["groups_that_differ"] == 4
    assert result["accuracy_difference_low"] < 0 < result["accuracy_difference_high"]
    assert result["verdict"].startswith("Cannot be told: fewer than 6 groups differ (4)")


def test_the_result_has_the_counts_and_can_be_written_as_json():
    labels, predicted = predictions_of_two(80, 10, 2)
    result = json.loads(json.dumps(compare(labels, predicted, np.arange(92), NAMES), allow_nan=False))
    assert result["only_correct"] == {"CNN": 2, "ResNet18": 10}
    assert (result["crops"], result["groups"], result["groups_that_differ"]) == (92, 92, 12)
    assert result["effective_groups"] == pytest.approx(92)
    assert result["accuracy_difference"] == pytest.approx(8 / 92)
    assert result["p_value"] == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # at most 2 heads in 12, or at least 10


def test_the_interval_of_the_difference_is_that_of_paired_crops():
    labels, predicted = predictions_of_two(300, 70, 30)
    result = compare(labels, predicted, np.arange(400), NAMES)
    difference = (predicted["ResNet18"] == labels) * 1.0 - (predicted["CNN"] == labels)
    error = 1.966 * difference.std(ddof=1) / np.sqrt(400)
    for metric in ("accuracy", "balanced_accuracy"):
        assert result[f"{metric}_difference"] == pytest.approx(0.1)
        assert result[f"{metric}_difference_low"] == pytest.approx(0.1 - error, abs=0.001)
        assert result[f"{metric}_difference_high"] == pytest.approx(0.1 + error, abs=0.001)


@pytest.mark.parametrize(("wrong", "direction"), [((70, 30), "more"), ((30, 70), "fewer")])
def test_a_clear_difference_is_called_significant_and_has_its_direction(wrong, direction):
    labels, predicted = predictions_of_two(300, *wrong)
    verdict = compare(labels, predicted, np.arange(400), NAMES)["verdict"]
    assert verdict.startswith("The difference is significant at the 5 % level: of these trained networks, ResNet18")
    assert f"10 percentage points {direction} of the 400 crops in 400 groups correctly than CNN" in verdict
    assert verdict.endswith("p < 0.001.")


def test_a_small_difference_is_not_significant():
    labels, predicted = predictions_of_two(90, 6, 4)
    assert compare(labels, predicted, np.arange(100), NAMES)["verdict"].startswith("No significant difference: ")


def test_equal_counts_of_correct_crops_are_said_to_be_equal():
    labels, predicted = predictions_of_two(90, 5, 5)
    verdict = compare(labels, predicted, np.arange(100), NAMES)["verdict"]
    assert "classify the same number of the 100 crops in 100 groups correctly" in verdict
    labels, predicted = predictions_of_two(90, 0, 0)
    assert compare(labels, predicted, np.arange(90), NAMES)["p_value"] == 1


def test_a_difference_that_one_tile_makes_cannot_be_told_however_many_crops():
    labels, predicted = predictions_of_two(300, 40, 0)
    result = compare(labels, predicted, np.concatenate([np.arange(300) % 9, np.full(40, 9)]), NAMES)
    assert result["accuracy_difference_low"] < 0 < result["accuracy_difference_high"]
    assert result["p_value"] == 1 and result["verdict"].startswith("Cannot be told: fewer than 6 groups differ (1)")


def test_the_verdict_goes_by_the_test_and_not_by_the_interval():
    """Seven groups favour the same network, one of them by far: the test is sure, the interval of the mean is wide."""
    labels, predicted = predictions_of_two(300, 46, 0)
    result = compare(labels, predicted, np.concatenate([np.arange(300) % 9, [9] * 40, np.arange(6)]), NAMES)
    assert result["accuracy_difference_low"] < 0
    assert result["p_value"] == pytest.approx(2 / 2**7)
    assert result["verdict"].startswith("The difference is significant")


@pytest.mark.parametrize("n_groups", [1, 2, 5])
def test_five_tiles_cannot_tell(n_groups):
    labels, predicted = predictions_of_two(30, 70, 0)
    result = compare(labels, predicted, np.arange(100) % n_groups, NAMES)
    assert result["verdict"].startswith("Cannot be told: fewer than 6 groups differ")
    assert (result["accuracy_difference_low"] is None) == (n_groups < 5)
