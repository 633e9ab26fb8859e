import numpy as np
import pytest

from nuclei.errors import InputError
from nuclei.splitting.leakage import check_folds, measure_leakage, merge_groups, training_groups
from nuclei.splitting.overlap import Pairs, overlapping_pairs

NAMES = np.array([f"{i}.png" for i in range(6)])


def pairs_of(*ends):
    first, second = np.array(ends, np.int64).reshape(-1, 2).T
    return Pairs(first, second, *np.zeros((4, len(first)), np.int64))


def test_a_patient_and_a_shared_pixel_join_crops_alike():
    overlaps = np.array([0, 0, 1, 2, 3, 3])
    patients = np.array(["a", "b", "b", "c", "d", "e"])
    assert merge_groups(overlaps, patients).tolist() == [0, 0, 0, 1, 2, 2]


def test_one_labelling_is_only_numbered_anew():
    assert merge_groups(np.array([7, 3, 7, 5])).tolist() == [0, 1, 0, 2]


def test_a_pair_across_folds_fails_and_names_the_crops():
    with pytest.raises(InputError, match=r"2 pairs .* the first 1\.png and 3\.png: use split\.by: overlap"):
        check_folds(pairs_of((0, 1), (1, 3), (2, 4)), np.array([0, 0, 1, 1, 2, 2]), NAMES)


def test_pairs_within_folds_pass():
    check_folds(pairs_of((0, 1), (2, 3)), np.array([0, 0, 1, 1, 2, 2]), NAMES)
    check_folds(pairs_of(), np.arange(6), NAMES)


def test_training_crops_that_meet_in_test_crops_are_one_group():
    # Crops 0..4 train, 5..7 test: 0 and 2 overlap the same test crop, 3 and 4 two test crops that overlap each other.
    pairs = pairs_of((0, 5), (2, 5), (3, 6), (4, 7), (6, 7))
    assert training_groups(pairs, 5, 3).tolist() == [0, 1, 0, 2, 2]
    assert training_groups(pairs[pairs.second < 5], 5, 0).tolist() == [0, 1, 2, 3, 4]


def test_folds_by_groups_joined_through_test_crops_pass_the_check():
    pairs = pairs_of((0, 4), (1, 2), (3, 4))
    group = training_groups(pairs, 4, 1)
    check_folds(pairs[pairs.second < 4], group, NAMES)
    report = measure_leakage(pairs, group, np.arange(4), n_test=1)
    assert (report["groups"], report["largest_group"], report["pairs"], report["pairs_across_folds"]) == (2, 2, 1, 0)


def test_leakage_is_counted_as_defined():
    # Crops 0..5 train, 6..9 test; 0-1-2 and 3-4 overlap, 5 is single; test crop 6 meets 0, and 8 meets only 9.
    pairs = pairs_of((0, 1), (0, 6), (1, 2), (3, 4), (8, 9))
    report = measure_leakage(pairs, np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2, 0]), n_test=4)
    assert report == {
        "overlapping_share": 0.833333,
        "pairs": 3,
        "groups": 3,
        "largest_group": 3,
        "pairs_across_folds": 0,
        "test_overlapping_share": 0.25,
        "leaking_share_of_random_fold": {"0": 0.5, "1": 0.5, "2": 0.0},
    }


def test_without_overlaps_nothing_leaks():
    crops = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    report = measure_leakage(overlapping_pairs(crops), np.arange(6) % 3, np.arange(6) % 3, n_test=1)
    assert (report["pairs"], report["groups"], report["largest_group"]) == (0, 6, 1)
    assert set(report["leaking_share_of_random_fold"].values()) == {0.0}
