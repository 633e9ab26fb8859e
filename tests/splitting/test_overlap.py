import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuclei.errors import InputError
from nuclei.splitting.dihedral import turned
from nuclei.splitting.near_duplicates import near_duplicates
from nuclei.splitting.overlap import Pairs, groups, layout, overlapping_pairs


def textured(rng, height, width, channels=3, levels=256):
    return (rng.integers(0, levels, (height, width, channels)) * (255 // (levels - 1))).astype(np.uint8)


def cut(tile, corners, height=64, width=64):
    return np.stack([tile[y : y + height, x : x + width] for y, x in corners])


def as_set(pairs):
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def assert_equal_pixels(crops, pairs):
    """What the docstring of Pairs promises, spelled out pixel by pixel."""
    for first, second, dy, dx, d4, area in zip(
        pairs.first, pairs.second, pairs.dy, pairs.dx, pairs.d4, pairs.area, strict=True
    ):
        canvas = {}
        for y, x in np.ndindex(crops[first].shape[:2]):
            canvas[y, x] = tuple(crops[first][y, x])
        shared = 0
        other = turned(crops[second], d4)
        for y, x in np.ndindex(other.shape[:2]):
            if (y + dy, x + dx) in canvas:
                shared += 1
                assert canvas[y + dy, x + dx] == tuple(other[y, x])
        assert shared == area


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    window=st.integers(6, 16),
    height=st.integers(40, 70),
    width=st.integers(40, 70),
    channels=st.sampled_from([1, 3]),
    levels=st.sampled_from([2, 3, 256]),
    tiles=st.integers(1, 3),
    count=st.integers(1, 12),
    spread=st.integers(1, 120),
    d4=st.booleans(),
)
def test_overlaps_in_random_tiles_are_found_and_nothing_else(
    seed, window, height, width, channels, levels, tiles, count, spread, d4
):
    rng = np.random.default_rng(seed)
    turns = rng.integers(0, 8, tiles * count) if d4 else np.zeros(tiles * count, int)
    if d4:
        width = height
    tile = np.repeat(np.arange(tiles), count)
    corners = rng.integers(0, spread, (tiles * count, 2))
    sheets = [textured(rng, height + spread, width + spread, channels, levels) for _ in range(tiles)]
    crops = [cut(sheets[t], [corner], height, width)[0] for t, corner in zip(tile, corners, strict=True)]
    crops = np.stack([turned(crop, d4) for crop, d4 in zip(crops, turns, strict=True)])

    pairs = overlapping_pairs(crops, window=window, border=0)
    found = {
        (a, b): area for a, b, area in zip(*(c.tolist() for c in (pairs.first, pairs.second, pairs.area)), strict=True)
    }
    group = groups(pairs, len(crops))
    for a in range(len(crops)):
        for b in range(a + 1, len(crops)):
            tall, wide = (height, width) - np.abs(corners[a] - corners[b])
            area = max(tall, 0) * max(wide, 0) if tile[a] == tile[b] else 0
            if (a, b) in found:
                assert found[a, b] == area
            elif area:
                # All that may be missed: overlaps below the guarantee that alone would join two groups.
                assert group[a] != group[b]
                assert min(tall, wide) < 2 * window


@pytest.mark.parametrize("d4", range(8))
def test_flipped_and_turned_crops_are_found(d4):
    tile = textured(np.random.default_rng(d4), 100, 100)
    crops = cut(tile, [(0, 0), (11, 23), (31, 8)])
    crops[1] = turned(crops[1], d4)
    pairs = overlapping_pairs(crops)
    assert as_set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert pairs.area.tolist() == [53 * 41, 33 * 56, 44 * 49]
    assert_equal_pixels(crops, pairs)
    assert (pairs.dy[0], pairs.dx[0]) == (11, 23)
    assert turned(turned(crops[1], pairs.d4[0]), 0).tobytes() == cut(tile, [(11, 23)])[0].tobytes()


def test_known_positions_come_back_to_the_pixel():
    tile = textured(np.random.default_rng(0), 200, 300)
    corners = np.array([(0, 0), (20, 30), (50, 60), (70, 90), (130, 190), (8, 236)])
    pairs = overlapping_pairs(cut(tile, corners))
    assert as_set(pairs) == {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)}
    assert not pairs.d4.any()
    assert np.array_equal(np.column_stack([pairs.dy, pairs.dx]), corners[pairs.second] - corners[pairs.first])
    assert groups(pairs, 6).tolist() == [0, 0, 0, 0, 1, 2]


def test_slivers_between_connected_crops_are_found():
    tile = textured(np.random.default_rng(1), 64, 200)
    pairs = overlapping_pairs(cut(tile, [(0, 0), (0, 32), (0, 63)]))  # the outer two share one column
    assert as_set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert pairs.area.tolist() == [32 * 64, 64, 33 * 64]


def test_layout_puts_turned_crops_of_a_long_strip_back_in_their_place():
    rng = np.random.default_rng(2)
    corners = np.array([(rng.integers(0, 20), 25 * i) for i in range(40)])
    crops = cut(textured(rng, 84, 1100), corners)
    for i in range(1, 40):
        crops[i] = turned(crops[i], rng.integers(0, 8))
    placed = layout(overlapping_pairs(crops), 40, (64, 64))
    assert not placed.group.any()
    assert np.array_equal(np.column_stack([placed.y, placed.x]), corners - corners[0])


def test_rectangular_crops_turned_on_their_side_are_found():
    tile = textured(np.random.default_rng(3), 200, 200)
    crops = np.stack([tile[10:50, 20:90], turned(tile[30:100, 40:80], 4 | 1)])
    pairs = overlapping_pairs(crops, window=8)
    assert (len(pairs), pairs.dy[0], pairs.dx[0], pairs.area[0]) == (1, 20, 20, 20 * 40)
    assert_equal_pixels(crops, pairs)
    assert np.array_equal(turned(crops[1], pairs.d4[0]), tile[30:100, 40:80])


def test_white_background_joins_nothing():
    rng = np.random.default_rng(4)
    crops = np.full((40, 64, 64, 3), 255, np.uint8)
    crops[:20, 20:44, 20:44] = rng.integers(0, 256, (20, 24, 24, 3))  # a nucleus each, white around it
    crops[20:30] = 252 + rng.integers(0, 2, (10, 64, 64, 3))  # nearly white
    assert len(overlapping_pairs(crops)) == 0


def test_all_white_crops_give_no_pairs():
    assert len(overlapping_pairs(np.full((3000, 64, 64, 3), 255, np.uint8))) == 0


def test_thousands_of_identical_crops_are_one_group_and_take_no_quadratic_time():
    crop = textured(np.random.default_rng(5), 40, 40)
    pairs = overlapping_pairs(np.broadcast_to(crop, (5000, 40, 40, 3)))
    assert not groups(pairs, 5000).any()
    assert len(pairs) == 16 * 15 // 2 + 5000 - 16
    assert np.all(pairs.area == 1600)
    few = overlapping_pairs(np.broadcast_to(crop, (12, 40, 40, 3)))
    assert len(few) == 12 * 11 // 2


def test_regular_patterns_are_not_slow():
    rows, columns = np.mgrid[:64, :64]
    stripes = np.where((rows // 3 + columns // 5) % 2, 250, 20).astype(np.uint8)
    crops = np.stack([np.roll(stripes, i, axis=i % 2) for i in range(300)])[..., None]
    assert_equal_pixels(crops, overlapping_pairs(crops, border=0)[:3])


def test_a_pattern_that_repeats_in_different_crops_does_not_join_them():
    rng = np.random.default_rng(6)
    crops = textured(rng, 30 * 64, 64).reshape(30, 64, 64, 3)
    crops[:, 5:25, 5:45] = textured(rng, 20, 40)  # a logo
    assert len(overlapping_pairs(crops)) == 0


def test_crops_enlarged_one_by_one_are_found_though_their_borders_differ():
    tile = textured(np.random.default_rng(7), 60, 60)
    small = cut(tile, [(0, 0), (4, 7), (33, 33)], 27, 27)
    crops = np.stack([np.asarray(Image.fromarray(each).resize((108, 108), Image.Resampling.LANCZOS)) for each in small])
    pairs = overlapping_pairs(crops, border=12)
    assert as_set(pairs) == {(0, 1)}
    assert (pairs.dy[0], pairs.dx[0], pairs.area[0]) == (16, 28, (92 - 24) * (80 - 24))
    assert len(overlapping_pairs(crops, border=0)) == 0


def test_test_crops_are_compared_with_training_crops_from_disk(tmp_path):
    rng = np.random.default_rng(8)
    corners = rng.integers(0, 300, (60, 2))
    crops = cut(textured(rng, 364, 364), corners)
    np.save(tmp_path / "train.npy", crops[:40])
    np.save(tmp_path / "test.npy", crops[40:])
    parts = [np.load(tmp_path / f"{part}.npy", mmap_mode="r") for part in ("train", "test")]
    apart, whole = overlapping_pairs(*parts), overlapping_pairs(crops, threads=1)
    assert np.any((apart.first < 40) & (apart.second >= 40))
    assert as_set(apart) == as_set(whole)
    assert apart.area.tolist() == whole.area.tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_one_crop_or_none_has_no_pairs(n):
    crops = textured(np.random.default_rng(9), 64, 64)[None][:n]
    pairs = overlapping_pairs(crops)
    assert len(pairs) == 0
    assert groups(pairs, n).tolist() == [0] * n
    assert len(near_duplicates(crops).first) == 0


def test_crops_smaller_than_the_window_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"crops of 40x6 pixels are too small.*at least 8x8"):
        overlapping_pairs(np.zeros((3, 6, 40, 3), np.uint8))


def test_crops_as_small_as_the_window_are_compared_whole():
    crops = textured(np.random.default_rng(10), 24, 8).reshape(3, 8, 8, 3)[[0, 1, 0, 2]]
    assert as_set(overlapping_pairs(crops)) == {(0, 2)}


def test_arrays_that_are_no_crops_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        overlapping_pairs(np.zeros((3, 64, 64, 3)))
    with pytest.raises(ValueError, match="same H, W, C"):
        overlapping_pairs(np.zeros((3, 64, 64, 3), np.uint8), np.zeros((3, 64, 64, 1), np.uint8))
    with pytest.raises(ValueError, match="window"):
        overlapping_pairs(np.zeros((3, 64, 64, 3), np.uint8), window=3)


def test_groups_are_numbered_in_the_order_of_their_first_crops():
    first, second = np.array([1, 2]), np.array([4, 5])
    pairs = Pairs(first, second, *np.zeros((4, 2), np.int64))
    assert groups(pairs, 7).tolist() == [0, 1, 2, 3, 1, 2, 4]


def test_thousands_of_nearly_identical_crops_are_one_group_and_their_pairs_grow_linearly():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
    counts = []
    for n in (300, 600):
        crops = np.repeat(one[None], n, axis=0)
        crops[np.arange(n), rng.integers(0, 8, n), rng.integers(0, 100, n)] ^= 255  # a pixel of each, near the border
        pairs = overlapping_pairs(crops)
        counts.append(len(pairs))
        assert groups(pairs, n).max() == 0
    assert counts[1] < 3 * counts[0]
