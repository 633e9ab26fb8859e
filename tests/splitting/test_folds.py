import numpy as np
import pytest

from nuclei.crops import roles
from nuclei.errors import InputError
from nuclei.splitting.folds import assign_folds, check_training


def grouped_labels(seed, n_groups=40):
    """Groups of uneven size, each with mostly one or two classes, as tiles have them."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(rng.permutation(1000)[:n_groups], rng.integers(1, 60, n_groups))
    favourite = {group: rng.choice(4, 2) for group in np.unique(groups)}
    labels = np.array([rng.integers(4) if rng.random() < 0.2 else rng.choice(favourite[group]) for group in groups])
    return labels, groups


@pytest.mark.parametrize("folds", [3, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_no_group_straddles_and_every_role_has_every_class(folds, seed):
    labels, groups = grouped_labels(seed)
    fold = assign_folds(labels, groups, folds, seed)
    assert set(fold) == set(range(folds)) and fold.shape == labels.shape
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    for members in roles(folds):
        assert set(labels[np.isin(fold, members)]) == {0, 1, 2, 3}


def test_folds_share_crops_and_classes_evenly():
    labels = np.tile([0, 1, 1, 1, 2, 3, 3, 3], 100)
    groups = np.repeat(np.arange(200), 4)
    fold = assign_folds(labels, groups, 5, seed=0)
    table = np.stack([np.bincount(labels[fold == number], minlength=4) for number in range(5)])
    np.testing.assert_allclose(table, np.tile([20, 60, 20, 60], (5, 1)), atol=4)


def test_the_order_of_the_crops_is_kept():
    labels, groups = grouped_labels(0)
    fold = assign_folds(labels, groups, 5, seed=0)
    of_group = dict(zip(groups, fold, strict=True))
    order = np.random.default_rng(0).permutation(len(labels))
    assert len(set(of_group.values())) == 5
    shuffled = assign_folds(labels[order], groups[order], 5, seed=0)
    assert np.array_equal([of_group[group] for group in groups[order]], shuffled)


def test_the_seed_chooses_the_folds():
    labels, groups = grouped_labels(0)
    first, again, other = (assign_folds(labels, groups, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("folds", [3, 5, 100])
def test_every_fold_has_one_role(folds):
    training, validation, holdout = roles(folds)
    assert sorted(training + validation + holdout) == list(range(folds))
    assert len(validation) == len(holdout) == 1


@pytest.mark.parametrize("folds", [3, 5, 8])
def test_in_turn_every_fold_is_held_out_and_validates_once(folds):
    turns = [roles(folds, holdout) for holdout in range(folds)]
    assert turns[0] == roles(folds)
    assert [turn.holdout for turn in turns] == [[fold] for fold in range(folds)]
    assert sorted(turn.validation[0] for turn in turns) == list(range(folds))
    for turn in turns:
        assert sorted(turn.training + turn.validation + turn.holdout) == list(range(folds))


def test_training_folds_that_lack_a_class_when_another_fold_is_held_out_are_an_error():
    labels, fold = np.array([0, 1] * 6 + [2, 2]), np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3, 1, 3])
    check_training(labels, fold, 4)  # label 2 is in the folds 1 and 3, one of which always trains
    with pytest.raises(InputError, match=r"label 2 fell to the training folds with fold 1 held out: change split"):
        check_training(labels, fold.clip(max=2), 3)


def test_a_class_in_fewer_groups_than_folds_is_an_error_with_a_remedy():
    labels, groups = grouped_labels(0)
    labels[labels == 2] = 1
    labels[:7] = 2  # of the first group or two
    with pytest.raises(InputError, match=r"train\.csv: label 2 \(muscle\) has 7 crops .* 5 folds: lower split\.folds"):
        assign_folds(labels, groups, 5, seed=0)


def test_a_role_without_a_class_is_an_error_with_a_remedy():
    # Three groups hold the three crops of label 3, and the draw puts two of the groups into one fold.
    rng = np.random.default_rng(53)
    groups = np.repeat(np.arange(12), rng.integers(1, 40, 12))
    labels = rng.integers(0, 4, len(groups))
    labels[labels == 3] = 0
    for group in rng.choice(12, 3, replace=False):
        labels[np.flatnonzero(groups == group)[0]] = 3
    with pytest.raises(InputError, match=r"label 3 fell to the validation folds: change split\.seed or split\.folds"):
        assign_folds(labels, groups, 3, seed=0)
