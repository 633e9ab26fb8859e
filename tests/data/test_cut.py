from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import tifffile
from tissue import tissue

from nuclei.data.cut import cut, cut_all, window
from nuclei.data.images import open_image
from nuclei.task import MPP, SIDE


def test_a_crop_at_40x_has_the_very_pixels_around_the_nucleus():
    pixels, nuclei = tissue()
    for y, x in nuclei[["y", "x"]].to_numpy()[:50]:
        if 50 <= y <= 350 and 50 <= x <= 750:
            assert np.array_equal(cut(pixels, y, x, SIDE), pixels[y - 50 : y + 50, x - 50 : x + 50])
            assert np.array_equal(cut(pixels, y + 0.4, x - 0.4, SIDE), pixels[y - 50 : y + 50, x - 50 : x + 50])


@pytest.mark.parametrize(("y", "x"), [(0, 0), (10, 790), (400, 800), (200, 3)])
def test_what_lies_outside_is_mirrored(y, x):
    pixels, _ = tissue()
    mirrored = np.pad(pixels, [(50, 50), (50, 50), (0, 0)], mode="symmetric")
    assert np.array_equal(cut(pixels, y, x, SIDE), mirrored[y : y + 100, x : x + 100])


def test_a_picture_smaller_than_a_crop_is_mirrored_again_and_again():
    pixels = tissue()[0][:30, :20]
    crop = cut(pixels, 15, 10, SIDE)
    assert crop.shape == (100, 100, 3)
    assert np.array_equal(crop[35:65, 40:60], pixels)
    assert cut(pixels, 15, 10, 50.0).shape == (100, 100, 3)


@pytest.mark.parametrize(("mpp", "side"), [(0.25, 100), (0.26, 100), (0.24, 100), (0.5, 50), (0.2, 125), (1, 25)])
def test_a_crop_spans_25_microns_and_small_differences_are_left_alone(mpp, side):
    assert window(mpp) == pytest.approx(side)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_picture_of_another_resolution_gives_nearly_the_same_crops(factor):
    pixels, nuclei = tissue()
    size = int(pixels.shape[1] * factor), int(pixels.shape[0] * factor)
    other = np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC))
    for y, x in nuclei[["y", "x"]].to_numpy()[:40]:
        expected = cut(pixels, y, x, SIDE).astype(int)
        crop = cut(other, y * factor, x * factor, window(MPP / factor))
        moved = np.roll(expected, 2, axis=1)
        assert np.abs(crop - expected).mean() < 8  # 20x has lost details
        assert np.abs(crop - expected).mean() < 0.7 * np.abs(crop - moved).mean()  # but nothing has moved


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.12])
def test_every_nucleus_of_a_picture_gets_its_own_crop_whatever_the_blocks(mpp, tmp_path):
    pixels, nuclei = tissue(2, 2)
    tifffile.imwrite(tmp_path / "tiles.tif", pixels, tile=(64, 64), compression="zlib")
    rng = np.random.default_rng(0)
    y = np.concatenate([nuclei.y + rng.uniform(-0.5, 0.5, len(nuclei)), [0, 800, 0.5, 1.5]])
    x = np.concatenate([nuclei.x + rng.uniform(-0.5, 0.5, len(nuclei)), [0, 800, 799.5, 2.5]])
    with open_image(tmp_path / "tiles.tif") as image:
        small = replace(image, block=(300, 150))
        found = dict(cut_all(small, y, x, mpp))
    assert sorted(found) == list(range(len(y)))
    for row, crop in found.items():
        expected = cut(pixels, y[row], x[row], window(mpp)).astype(int)
        assert np.abs(crop - expected).max() <= (0 if mpp == MPP else 1)


def test_blocks_are_read_one_after_the_other(tmp_path):
    pixels, nuclei = tissue(2, 2)
    PIL.Image.fromarray(pixels).save(tmp_path / "tile.png", compress_level=1)
    read = []
    with open_image(tmp_path / "tile.png") as image:

        def watched(top, left, bottom, right):
            read.append((top, left, bottom, right))
            return image.read(top, left, bottom, right)

        watched_image = replace(image, block=(400, 400), read=watched)
        list(cut_all(watched_image, nuclei.y.to_numpy(float), nuclei.x.to_numpy(float), MPP))
    assert len(read) == 4
    assert all(bottom - top <= 520 and right - left <= 520 for top, left, bottom, right in read)
