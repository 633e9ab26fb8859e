import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from nuclei.errors import InputError
from nuclei.splitting.folds import assign_folds, fold_warnings

CLASSES = ("normal epithelial", "cancer epithelial", "muscle", "immune leukocyte")


def grouped_labels(seed, n_groups=40):
    """Groups of uneven size, each with mostly one or two classes, as tiles have them."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(rng.permutation(1000)[:n_groups], rng.integers(1, 60, n_groups))
    favourite = {group: rng.choice(4, 2) for group in np.unique(groups)}
    labels = np.array([rng.integers(4) if rng.random() < 0.2 else rng.choice(favourite[group]) for group in groups])
    return labels, groups


def competition_like():
    """7,560 crops in 179 groups as unequal as the competition's; class 0 is in six of them."""
    large = [947, 365, 320, 268, 255, 238, 216, 214, 204, 165, 152]
    sizes = np.concatenate([large, np.full(62, 65), np.ones(105, np.int64), [81]])
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    favourite = rng.integers(1, 4, (len(sizes), 2))
    labels = favourite[groups, rng.integers(0, 2, len(groups))]
    labels[np.isin(groups, [2, 3, 5, 9, 10, 20]) & (rng.random(len(groups)) < 0.7)] = 0
    return labels, groups


def table_of(labels, fold, classes=4):
    return np.stack([np.bincount(labels[fold == number], minlength=classes) for number in np.unique(fold)])


def unevenness(labels, fold):
    table = table_of(labels, fold)
    return ((table / table.sum(axis=0) - 1 / len(table)) ** 2).sum()


@pytest.mark.parametrize("folds", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_no_group_straddles_and_every_fold_has_every_class(folds, seed):
    labels, groups = grouped_labels(seed)
    fold = assign_folds(labels, groups, folds, seed, CLASSES)
    assert set(fold) == set(range(folds)) and fold.shape == labels.shape
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    assert table_of(labels, fold).all()


def test_folds_share_crops_and_classes_evenly():
    labels = np.tile([0, 1, 1, 1, 2, 3, 3, 3], 100)
    groups = np.repeat(np.arange(200), 4)
    fold = assign_folds(labels, groups, 5, 0, CLASSES)
    np.testing.assert_allclose(table_of(labels, fold), np.tile([20, 60, 20, 60], (5, 1)), atol=4)


def test_single_crops_are_split_as_evenly_as_numbers_allow():
    labels = np.random.default_rng(0).integers(0, 4, 2003)
    table = table_of(labels, assign_folds(labels, np.arange(2003), 5, 0, CLASSES))
    assert np.ptp(table, axis=0).max() <= 2 and np.ptp(table.sum(axis=1)) <= 2


def test_very_unequal_groups_are_spread_more_evenly_than_by_scikit_learn():
    labels, groups = competition_like()
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    usual = np.empty(len(labels), np.int64)
    for number, (_, rows) in enumerate(splitter.split(labels, labels, groups)):
        usual[rows] = number
    for seed in range(3):
        assert unevenness(labels, assign_folds(labels, groups, 5, seed, CLASSES)) < unevenness(labels, usual)


def test_the_order_of_the_crops_is_kept():
    labels, groups = grouped_labels(0)
    fold = assign_folds(labels, groups, 5, 0, CLASSES)
    of_group = dict(zip(groups, fold, strict=True))
    order = np.random.default_rng(0).permutation(len(labels))
    assert len(set(of_group.values())) == 5
    shuffled = assign_folds(labels[order], groups[order], 5, 0, CLASSES)
    assert np.array_equal([of_group[group] for group in groups[order]], shuffled)


@pytest.mark.parametrize("groups", ["uneven", "competition"])
def test_another_seed_holds_out_another_fold_and_parts_other_groups(groups):
    labels, groups = grouped_labels(0) if groups == "uneven" else competition_like()
    folds = [assign_folds(labels, groups, 5, seed, CLASSES) for seed in (0, 0, 1, 2, 3)]
    assert np.array_equal(folds[0], folds[1])
    largest = np.bincount(groups).argmax()
    assert len({fold[groups == largest][0] for fold in folds}) > 1  # the largest group is not always in one fold
    partitions = [{frozenset(groups[fold == number]) for number in range(5)} for fold in folds[1:]]
    for i, partition in enumerate(partitions):
        assert all(partition != other for other in partitions[:i])


def test_the_folds_of_a_seed_stay_what_they_are_on_every_machine():
    labels, groups = competition_like()
    fold = assign_folds(labels, groups, 5, 0, CLASSES)
    first_groups = [int(fold[groups == group][0]) for group in range(12)]
    assert first_groups == [4, 1, 4, 2, 0, 3, 0, 2, 2, 1, 0, 2]


def test_each_class_is_trained_on_even_where_the_only_way_is_a_rare_one():
    # Each pair of groups shares a class of its own; with two folds only {a, b} against {c} parts all of them.
    held = {"a": [0], "b": [1, 2], "c": [0, 1, 2], "d": [3], "e": [3]}
    groups = np.array([name for name, labels in held.items() for _ in labels])
    labels = np.array([label for some in held.values() for label in some])
    for seed in range(5):
        assert table_of(labels, assign_folds(labels, groups, 2, seed, CLASSES)).all()


def test_a_class_in_fewer_groups_than_folds_is_split_and_told():
    labels, groups = grouped_labels(0)
    labels[labels == 2] = 1
    for group in np.unique(groups)[:3]:
        labels[np.flatnonzero(groups == group)[:2]] = 2
    fold = assign_folds(labels, groups, 5, 0, CLASSES)
    table = table_of(labels, fold)
    assert (table[:, 2] > 0).sum() == 3  # each of the three groups in another fold
    (line,) = fold_warnings(labels, groups, fold, CLASSES)
    absent = ", ".join(str(number) for number in np.flatnonzero(table[:, 2] == 0))
    assert line.startswith(f"label 2 (muscle) is in 3 groups for 5 folds, none in fold {absent}: ")


def test_a_class_that_is_mostly_in_one_fold_is_told():
    groups = np.arange(100) // 5
    labels = np.tile([0, 1, 2, 3, 3], 20)
    labels[groups == 0] = 1
    labels[groups > 5] = np.where(labels[groups > 5] == 0, 3, labels[groups > 5])  # class 0: one crop in each of five
    extra = np.full(50, 1)
    labels, groups = np.concatenate([labels, np.zeros(50, np.int64)]), np.concatenate([groups, extra])
    fold = assign_folds(labels, groups, 5, 0, CLASSES)
    (line,) = fold_warnings(labels, groups, fold, CLASSES)
    assert line.startswith(f"label 0 (normal epithelial) has 51 of its 55 crops in fold {fold[groups == 1][0]}: ")


def test_nothing_is_told_of_even_folds():
    labels, groups = grouped_labels(0)
    assert fold_warnings(labels, groups, assign_folds(labels, groups, 5, 0, CLASSES), CLASSES) == []


def test_any_number_of_classes_can_be_split():
    rng = np.random.default_rng(0)
    for k in (2, 9, 30):
        labels, names = rng.integers(0, k, 3000), [f"class {label}" for label in range(k)]
        fold = assign_folds(labels, np.arange(3000) // 5, 5, 0, names)
        assert table_of(labels, fold, k).all()


@pytest.mark.parametrize(("crops", "told"), [(7, "7 crops in 1 group"), (0, "0 crops in 0 groups")])
def test_a_class_in_a_single_group_is_an_error_with_a_remedy_that_works(crops, told):
    labels, groups = grouped_labels(0)
    labels[labels == 2] = 1
    labels[np.flatnonzero(groups == np.bincount(groups).argmax())[:crops]] = 2
    with pytest.raises(InputError, match=rf"train\.csv: label 2 \(muscle\) has {told}, .*from another group"):
        assign_folds(labels, groups, 5, 0, CLASSES)


def test_fewer_groups_than_folds_is_an_error_with_a_remedy_that_works():
    labels, groups = np.tile([0, 1, 2, 3], 4), np.repeat(np.arange(4), 4)
    with pytest.raises(InputError, match=r"train\.csv: the crops are of 4 groups, fewer than the 5 folds: lower split"):
        assign_folds(labels, groups, 5, 0, CLASSES)
    assert table_of(labels, assign_folds(labels, groups, 4, 0, CLASSES)).all()


def test_classes_that_two_folds_cannot_part_are_an_error_and_three_folds_can():
    # Three groups, each two of which share a class: two of them are in one fold of two.
    labels, groups = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(
        InputError, match=r"label \d \(\w+ ?\w*\) would fall to a single fold of 2.* raise split\.folds"
    ):
        assign_folds(labels, groups, 2, 0, CLASSES[:3])
    assert len(set(assign_folds(labels, groups, 3, 0, CLASSES[:3]))) == 3
