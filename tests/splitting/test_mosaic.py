import numpy as np
import pytest
from drawn import assert_same_png

from nuclei.splitting.dihedral import turned
from nuclei.splitting.mosaic import largest_mosaics, mosaic, plot_mosaics
from nuclei.splitting.overlap import overlapping_pairs


def strip(rng, channels=3):
    tile = rng.integers(0, 256, (80, 152, channels)).astype(np.uint8)
    corners = [(0, 0), (16, 30), (3, 60), (10, 88)]
    return tile, np.stack([tile[y : y + 64, x : x + 64] for y, x in corners]), np.array(corners)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_tile_comes_back(channels):
    tile, crops, corners = strip(np.random.default_rng(0), channels)
    crops[2] = turned(crops[2], 6)
    found = mosaic(crops, overlapping_pairs(crops), np.arange(4))
    assert found.canvas.shape == (80, 152, 3)
    assert np.array_equal(np.column_stack([found.y, found.x]), corners)
    covered = np.zeros((80, 152), bool)
    for y, x in corners:
        covered[y : y + 64, x : x + 64] = True
    assert np.array_equal(found.canvas[covered], np.broadcast_to(tile, (80, 152, 3))[covered])
    assert np.all(found.canvas[~covered] == 255)


def test_members_are_taken_by_index_and_in_any_order():
    _, crops, corners = strip(np.random.default_rng(1))
    others = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    everything = np.concatenate([others, crops])
    found = mosaic(everything, overlapping_pairs(everything), np.array([5, 3, 6, 4]))
    assert np.array_equal(np.column_stack([found.y, found.x]), corners[[2, 0, 3, 1]])


def test_each_nucleus_is_marked_in_the_colour_of_its_crop():
    _, crops, corners = strip(np.random.default_rng(3))
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [1, 2, 3]], np.uint8)
    found = mosaic(crops, overlapping_pairs(crops), np.arange(4), colours)
    for (y, x), colour in zip(corners, colours, strict=True):
        assert np.array_equal(found.canvas[y + 32, x + 32], colour)


def test_the_largest_groups_come_first_and_single_crops_not_at_all():
    _, crops, _ = strip(np.random.default_rng(7))
    tile = np.random.default_rng(8).integers(0, 256, (64, 100, 3)).astype(np.uint8)
    single = np.random.default_rng(9).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    everything = np.concatenate([single, tile[None, :, :64], crops, tile[None, :, 36:]])
    colours = np.full((7, 3), 7, np.uint8)
    large, small = largest_mosaics(everything, overlapping_pairs(everything), colours)
    assert large.shape == (80, 152, 3) and small.shape == (64, 100, 3)
    assert len(largest_mosaics(everything, overlapping_pairs(everything), colours, count=1)) == 1
    assert largest_mosaics(single, overlapping_pairs(single), colours[:1]) == []


def test_a_large_mosaic_is_drawn_smaller():
    tile, crops, _ = strip(np.random.default_rng(4))
    found = mosaic(crops, overlapping_pairs(crops), np.arange(4), longest=60)
    assert found.canvas.shape == (27, 51, 3)
    assert np.array_equal(found.canvas[:20, :20], tile[:60:3, :60:3])


def test_crops_that_do_not_overlap_have_no_mosaic():
    crops = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="one group"):
        mosaic(crops, overlapping_pairs(crops), np.arange(2))


def test_a_single_crop_is_its_own_mosaic():
    crops = np.random.default_rng(6).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    assert np.array_equal(mosaic(crops, overlapping_pairs(crops), np.array([1])).canvas, crops[1])


def test_the_mosaics_are_the_same_png_every_time(tmp_path):
    assert_same_png(draw_mosaics, tmp_path)


def test_mosaics_without_a_group_say_so_and_name_every_fold():
    figure = draw_mosaics()
    assert [part.get_suptitle() for part in figure.subfigs] == ["random", "by overlap: no crop overlaps another one"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["held out", "validation"]


def draw_mosaics():
    crops = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3)).astype(np.uint8)
    return plot_mosaics({"random": [crops[0], crops[1]], "by overlap": []}, {0: "held out", 1: "validation"})
