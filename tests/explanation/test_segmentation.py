import numpy as np
import pytest
from skimage.color import hed2rgb
from skimage.filters import gaussian

from nuclei.explanation.segmentation import RADIUS, REACH, centre_disc, centre_nucleus
from nuclei.task import MPP

ROWS, COLUMNS = np.mgrid[:100, :100] - 49.5


def stained(nuclei, channels=3):
    """A crop with eosin everywhere and haematoxylin in `nuclei`, bool (100, 100)."""
    haematoxylin = gaussian(nuclei.astype(float), sigma=1)
    rgb = hed2rgb(np.stack([0.02 + 0.15 * haematoxylin, np.full((100, 100), 0.05), np.zeros((100, 100))], axis=2))
    crop = (255 * rgb).round().astype(np.uint8)
    return crop if channels == 3 else crop.mean(axis=2, keepdims=True).round().astype(np.uint8)


def disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) < radius


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("radius", [7, 15])
def test_the_mask_is_the_nucleus_in_the_middle_and_not_its_neighbours(radius, channels):
    middle = disc(0, 0, radius)
    mask = centre_nucleus(stained(middle | disc(30, 5, 9) | disc(-35, -20, 12), channels))
    assert mask.shape == (100, 100) and mask.dtype == bool
    assert overlap(mask, middle) > 0.75


def test_a_ring_of_chromatin_is_filled():
    mask = centre_nucleus(stained(disc(0, 0, 14) & ~disc(0, 0, 9)))
    assert overlap(mask, disc(0, 0, 14)) > 0.75


def test_a_thin_bridge_does_not_reach_the_neighbour():
    bridge = (np.abs(ROWS) < 1.5) & (COLUMNS > 0) & (COLUMNS < 30)
    mask = centre_nucleus(stained(disc(0, 0, 10) | disc(0, 30, 10) | bridge))
    assert overlap(mask, disc(0, 0, 10)) > 0.7


def test_a_neighbour_that_touches_counts_only_as_far_as_a_nucleus_reaches():
    mask = centre_nucleus(stained(disc(0, 0, 11) | disc(0, 20, 14)))
    assert not mask[np.hypot(ROWS, COLUMNS) >= REACH / MPP].any()
    assert mask[disc(0, 0, 8)].all()


def test_without_a_nucleus_near_the_middle_it_is_the_disc():
    assert np.array_equal(centre_nucleus(stained(disc(35, 35, 10))), centre_disc((100, 100)))


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_crop_has_the_disc(value, channels):
    mask = centre_nucleus(np.full((100, 100, channels), value, np.uint8))
    assert np.array_equal(mask, centre_disc((100, 100)))


def test_the_disc_lies_in_the_middle_of_any_crop():
    mask = centre_disc((60, 80))
    assert np.array_equal(mask, mask[::-1, ::-1])
    assert mask.any(axis=1).sum() == mask.any(axis=0).sum() == 2 * RADIUS / MPP
