import numpy as np
import pytest
from simulated_scores import calibrated

from nuclei.crops import Places
from nuclei.errors import InputError
from nuclei.models.calibration import TARGETS, Neighbourhood, fit_calibration
from nuclei.models.conformal import conformal_sets, conformal_threshold, out_of_fold_sets, score_sets
from nuclei.models.neighbours import add_neighbours, fit_weights, mean_of_neighbours
from nuclei.models.temperature import fit_temperature, softmax


def hospital(rng, sizes):
    """Crops of groups that differ: labels, probabilities, groups. The networks are worse on some groups than others."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    skill = rng.normal(2, 1, len(sizes))[group]
    labels = rng.integers(0, 4, len(group))
    logits = rng.normal(size=(len(group), 4))
    logits[np.arange(len(group)), labels] += skill
    return labels, softmax(2 * logits), group


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_sets_hold_the_true_class_of_a_new_group_as_often_as_promised(target):
    """Over studies of unequal groups: mean coverage of a new group; without regard to groups it is less than that."""
    rng = np.random.default_rng(0)
    sizes = np.array([200, 120, 60, 40, 30, *[10] * 5, *[3] * 6, *[1] * 6])
    covered, promises = [], []
    for _ in range(400):
        labels, probabilities, group = hospital(rng, rng.permutation([*sizes, 50]))
        new = group == rng.integers(len(sizes) + 1)
        threshold, promised = conformal_threshold(labels[~new], probabilities[~new], group[~new], target)
        sets = conformal_sets(probabilities[new], threshold)
        covered.append(sets[np.arange(new.sum()), labels[new]].mean())
        promises.append(promised)
    error = 3 * np.std(covered) / np.sqrt(len(covered))
    assert promises == [target] * 400
    assert target - error <= np.mean(covered) <= 0.99


def test_single_crop_groups_give_the_ordinary_conformal_threshold():
    true_class = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    probabilities = np.stack([true_class, 1 - true_class], axis=1)
    labels, groups = np.zeros(9, int), np.arange(9)
    assert conformal_threshold(labels, probabilities, groups, 0.5) == (0.5, 0.5)  # the fifth of ten ranks
    assert conformal_threshold(labels, probabilities, groups, 0.9) == (0.1, 0.9)  # the ninth


def test_too_few_groups_promise_what_they_can():
    """With 8 groups the ninth, new one may be wrong throughout: 8/9 at most, however many crops."""
    labels, probabilities, group = hospital(np.random.default_rng(0), [100] * 8)
    threshold, promised = conformal_threshold(labels, probabilities, group, 0.95)
    assert promised == pytest.approx(8 / 9)
    assert threshold == probabilities[np.arange(800), labels].min()


def test_each_group_weighs_the_same_however_large():
    """By hand: 3 groups, a quarter each; the crops of the large one are worth 1/16 each."""
    true_class = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    probabilities = np.stack([true_class, 1 - true_class], axis=1)
    groups = np.array(["large", "large", "large", "large", "b", "c"])
    thresholds = [
        conformal_threshold(np.zeros(6, int), probabilities, groups, t)[0] for t in (1 / 16, 1 / 4, 0.3, 0.75)
    ]
    assert thresholds == [0.9, 0.6, 0.5, 0.4]


def test_a_set_has_all_classes_that_are_likely_enough_and_never_none():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.2, 0.2, 0.6]])
    assert conformal_sets(probabilities, 0.3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert conformal_sets(probabilities, 0.7).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert conformal_sets(probabilities, 0.0).all()


def test_sets_keep_the_promise_where_the_network_is_correct_less_often_than_that():
    logits, labels = calibrated(20000)
    probabilities, group = softmax(logits), np.arange(10000)
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.8
    threshold, _ = conformal_threshold(labels[:10000], probabilities[:10000], group, 0.9)
    sets = conformal_sets(probabilities[10000:], threshold)
    assert sets[group, labels[10000:]].mean() == pytest.approx(0.9, abs=0.015)
    assert 1 < sets.sum(axis=1).mean() < 3


def test_a_fold_does_not_calibrate_its_own_sets():
    labels, probabilities, group = hospital(np.random.default_rng(1), [30] * 30)
    folds = group % 3
    sets, promised = out_of_fold_sets(labels, probabilities, group, folds, 0.9)
    assert promised == 0.9
    for fold in range(3):
        threshold, _ = conformal_threshold(*(part[folds != fold] for part in (labels, probabilities, group)), 0.9)
        assert (sets[folds == fold] == conformal_sets(probabilities[folds == fold], threshold)).all()
    changed = np.where(folds == 0, (labels + 1) % 4, labels)
    assert (out_of_fold_sets(changed, probabilities, group, folds, 0.9)[0] == sets)[folds == 0].all()


def test_the_promise_is_that_of_the_fold_with_the_fewest_other_groups():
    labels, probabilities, group = hospital(np.random.default_rng(1), [30] * 12)
    folds = np.array([0] * 8 + [1] * 4)[group]  # fold 0 is calibrated on four groups
    assert out_of_fold_sets(labels, probabilities, group, folds, 0.9)[1] == pytest.approx(4 / 5)


def test_a_single_fold_cannot_be_calibrated():
    with pytest.raises(InputError, match="2 folds or more"):
        out_of_fold_sets(np.zeros(3, int), np.full((3, 2), 0.5), np.arange(3), np.zeros(3, int), 0.9)


def test_sets_are_scored_by_class():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    table = score_sets(np.array([0, 0, 1, 1]), sets, ["a", "b", "c"])
    assert table["Class"].tolist() == ["a", "b", "c"]
    assert table["Set_coverage"].tolist()[:2] == [1, 0.5]
    assert table["Set_size"].tolist()[:2] == [1.5, 1]
    assert table.iloc[2, 1:].isna().all()  # no crop of it


def test_a_checkpoint_gets_the_thresholds_of_all_targets_after_its_temperature():
    logits, labels = calibrated(600)
    groups = np.arange(600) % 12
    alone = Places(np.arange(600), *np.zeros((2, 600)))
    calibration = fit_calibration(3 * logits, labels, groups, alone)
    assert calibration.temperature == fit_temperature(3 * logits, labels)
    probabilities = softmax(3 * logits, calibration.temperature)
    pairs = [conformal_threshold(labels, probabilities, groups, target) for target in TARGETS]
    assert list(zip(calibration.thresholds, calibration.promised, strict=True)) == pairs
    assert calibration.promised == (0.8, 0.9, pytest.approx(12 / 13))
    assert list(calibration.thresholds) == sorted(calibration.thresholds, reverse=True)
    assert calibration.neighbourhood is None


def test_a_checkpoint_gets_weights_and_thresholds_for_nuclei_with_neighbours():
    logits, labels = calibrated(600)
    order = np.argsort(labels, kind="stable")
    logits, labels, groups = logits[order], labels[order], np.arange(600) // 50
    side_by_side = Places(groups, np.zeros(600), 3.0 * (np.arange(600) % 50))
    calibration = fit_calibration(logits, labels, groups, side_by_side)
    probabilities = softmax(logits, calibration.temperature)
    around = mean_of_neighbours(probabilities, side_by_side)
    weights = fit_weights(probabilities, around, labels)
    together = add_neighbours(probabilities, around, weights)
    thresholds = [conformal_threshold(labels, together, groups, target)[0] for target in TARGETS]
    assert calibration.neighbourhood == Neighbourhood(weights, tuple(thresholds), calibration.promised)
    assert calibration.neighbourhood.thresholds != calibration.thresholds
