import numpy as np
import pytest
from skimage.color import rgb_from_hed

from nuclei.evaluation.corruptions import (
    blur,
    change_gamma,
    compress,
    corruptions,
    lose_resolution,
    restain,
    restainings,
    stain_vectors,
)

SEVERITIES = {"blur": (1.0, 3.0), "jpeg": (90, 10), "gamma": (0.5, 0.8, 1.5), "resolution": (1.5, 4.0)}


def tissue(stains, n=6, seed=0, side=40):
    """Crops whose pixels are stained by none, either or both of `stains` (2, 3), uint8 (n, H, W, 3)."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(3, 0.3, (n, side, side, 2)) * rng.integers(0, 2, (n, side, side, 2))
    return (256 * np.exp(-(amounts @ stains)) - 1).round().clip(0, 255).astype(np.uint8)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


HE = unit(rgb_from_hed[:2])
OTHER = unit(np.array([[0.56, 0.77, 0.33], [0.1, 0.95, 0.25]]))  # some degrees off, as between laboratories
CROPS = tissue(HE)


def every_corruption(crops):
    groups = np.arange(len(crops)) % 2
    return [*corruptions(SEVERITIES), *restainings(crops, groups, (0.0, 1.0))]


@pytest.mark.parametrize("channels", [3, 1])
def test_crops_keep_their_form_and_are_not_written(channels):
    crops = (
        np.stack([tissue(HE, n=16), tissue(OTHER, n=16)], axis=1).reshape(-1, 40, 40, 3)[:, :, :38, :channels].copy()
    )
    crops.setflags(write=False)
    before = crops.copy()
    changed = every_corruption(crops)
    assert len(changed) == 1 + 9 + 2
    for corruption in changed:
        first, again = corruption.apply(crops), corruption.apply(crops)
        assert first.dtype == np.uint8 and first.shape == crops.shape
        assert np.array_equal(first, again)
        assert np.array_equal(first, crops) == (corruption.name == "none"), corruption
    assert np.array_equal(crops, before)


def test_the_crops_as_they_are_come_first_and_each_severity_once():
    rows = [(corruption.name, corruption.severity) for corruption in corruptions({"jpeg": (50,), "blur": (1, 2)})]
    assert rows == [("none", 0), ("jpeg", 50), ("blur", 1), ("blur", 2)]


def test_each_crop_is_changed_alone():
    for corruption in every_corruption(tissue(HE, n=32)):
        assert np.array_equal(corruption.apply(CROPS)[2:3], corruption.apply(CROPS[2:3])), corruption


def test_blur_and_lost_resolution_take_detail_and_leave_colour():
    for change, little, much in ((blur, 0.5, 3), (lose_resolution, 1.5, 5)):
        spread = [crops.std(axis=(1, 2)).mean() for crops in (CROPS, change(CROPS, little), change(CROPS, much))]
        assert spread[0] > 1.1 * spread[1] > 1.1 * 1.1 * spread[2]
        flat = np.full((2, 9, 9, 3), (10, 100, 250), np.uint8)
        assert np.array_equal(change(flat, much), flat)
        np.testing.assert_allclose(change(CROPS, much).mean(axis=(0, 1, 2)), CROPS.mean(axis=(0, 1, 2)), atol=2)


def test_a_blurred_point_is_a_gaussian():
    point = np.zeros((1, 31, 31, 1), np.uint8)
    point[0, 15, 15] = 255
    y, x = np.mgrid[-15:16, -15:16]
    expected = 255 * np.exp(-(y**2 + x**2) / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    np.testing.assert_allclose(blur(point, 2.0)[0, ..., 0], expected, atol=0.6)


def test_stronger_compression_changes_more():
    smooth = blur(CROPS, 2)
    errors = [np.abs(compress(smooth, quality).astype(int) - smooth).mean() for quality in (95, 50, 5)]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_gamma_keeps_black_and_white_and_order():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(change_gamma(levels, 1.0), levels)
    for gamma in (0.5, 2.0):
        changed = change_gamma(levels, gamma).ravel().astype(int)
        assert changed[0] == 0 and changed[-1] == 255 and (np.diff(changed) >= 0).all()
    assert change_gamma(levels, 2.0).ravel()[128] == 64  # 255 (128 / 255)^2


@pytest.mark.parametrize("stains", [HE, OTHER])
def test_stains_are_measured(stains):
    measured = stain_vectors(tissue(stains, n=20))
    angles = np.degrees(np.arccos((unit(measured) * stains).sum(axis=1)))
    assert angles.max() < 9  # pale pixels, of pure eosin, are left out
    assert ((measured > 0.5 * stains) & (measured < 5 * stains + 0.3)).all()  # as dark as the darkest pixels


def test_crops_are_stained_as_those_of_the_other_group():
    mine, other = tissue(HE, n=20), tissue(OTHER, n=20, seed=1)
    restained = restain(mine, stain_vectors(mine), stain_vectors(other))
    np.testing.assert_allclose(restained.mean(axis=(0, 1, 2)), other.mean(axis=(0, 1, 2)), atol=3)
    same_amounts = tissue(OTHER, n=20)
    assert np.abs(restained.astype(int) - same_amounts).mean() < 4 < np.abs(mine.astype(int) - same_amounts).mean()


def test_the_same_stain_changes_nothing():
    stains = stain_vectors(CROPS)
    assert np.abs(restain(CROPS, stains, stains).astype(int) - CROPS).max() <= 1


def test_a_severe_restaining_is_that_of_the_most_unusual_group():
    strengths = (*np.linspace(1, 1.1, 8), 0.4)
    crops = np.concatenate([tissue(strength * HE, n=16, seed=seed) for seed, strength in enumerate(strengths)])
    mild, severe = restainings(crops, np.repeat(list("abcdefghi"), 16), (0.0, 1.0))
    assert (mild.name, mild.severity, severe.severity) == ("stain", 0, 1)
    change = [np.abs(corruption.apply(crops).astype(int) - crops).mean() for corruption in (mild, severe)]
    assert change[0] < change[1] / 2
    assert severe.apply(crops).mean() > crops.mean() + 10  # paler


@pytest.mark.parametrize("channels", [3, 1])
def test_groups_without_tissue_have_no_stain(channels):
    white = np.full((4, 60, 60, channels), 250, np.uint8)
    assert stain_vectors(white) is None
    assert restainings(white, np.zeros(4), (0.5, 1.0)) == []
    grown = np.concatenate([np.repeat(white, 4, axis=0), tissue(HE, n=16, side=60)[..., :channels]])
    assert restainings(grown, np.repeat([0, 1], 16), (1.0,)) == []  # one group with tissue is no other one


def test_stains_are_measured_of_groups_with_enough_tissue_of_both():
    both, other = tissue(HE, n=32), tissue(HE[[0, 0]], n=16)
    assert restainings(both, np.arange(32), (0.5,)) == []
    assert len(restainings(both, np.arange(32) % 2, (0.5,))) == 1
    assert restainings(np.concatenate([both, other]), np.repeat([0, 1], (32, 16)), (0.5,)) == []


def test_a_group_stained_in_quite_another_way_is_left_out():
    swapped = tissue(HE @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0.0]]), n=16)  # red for blue
    crops = np.concatenate([tissue(HE, n=64), tissue(OTHER, n=16), swapped])
    usual, unusual = restainings(crops, np.repeat(range(6), 16), (0.0, 1.0))
    change = [np.abs(corruption.apply(CROPS).astype(int) - CROPS).mean() for corruption in (usual, unusual)]
    assert change[0] < change[1] < 15


def test_crops_of_a_single_colour_have_no_two_stains():
    assert stain_vectors(np.full((4, 20, 20, 3), (120, 60, 140), np.uint8)) is None
    assert stain_vectors(tissue(np.array([HE[0], 0 * HE[0]]))) is None
