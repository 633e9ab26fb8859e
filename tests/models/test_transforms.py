from itertools import product

import numpy as np
import pytest
import torch
from skimage.color import rgb_from_hed

from nuclei.models.transforms import draw_augmentation, flip_rotate, normalise, stain_jitter


def random_crops(n, channels=3, size=12):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size, channels)).astype(np.uint8))


def unchanged(n):
    return torch.ones(n, 3), torch.zeros(n, 3)


@pytest.mark.parametrize("code", range(8))
def test_each_turn_does_what_its_bits_say(code):
    crop = random_crops(1)
    expected = crop[0].numpy()
    if code & 4:
        expected = expected.swapaxes(0, 1)
    if code & 1:
        expected = expected[::-1]
    if code & 2:
        expected = expected[:, ::-1]
    assert np.array_equal(flip_rotate(crop, torch.tensor([code]))[0].numpy(), expected)


def test_the_turns_are_the_eight_flips_and_quarter_turns():
    crop = random_crops(1)
    ours = {flip_rotate(crop, torch.tensor([code]))[0].numpy().tobytes() for code in range(8)}
    square = crop[0].numpy()
    assert ours == {np.rot90(side, k).tobytes() for side in (square, square[::-1]) for k in range(4)}
    assert len(ours) == 8
    for first, second in product(range(8), repeat=2):
        twice = flip_rotate(flip_rotate(crop, torch.tensor([first])), torch.tensor([second]))
        assert twice[0].numpy().tobytes() in ours


def test_each_crop_of_a_batch_is_turned_by_its_own_code():
    crops, codes = random_crops(20), torch.arange(20) % 8
    together = flip_rotate(crops, codes)
    for row in range(20):
        assert torch.equal(together[row], flip_rotate(crops[row : row + 1], codes[row : row + 1])[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_ones_and_zeros_leave_every_colour_as_it_is(channels):
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, channels)
    crops = torch.cat([ramp, random_crops(1, channels, 16)])
    torch.testing.assert_close(stain_jitter(crops, *unchanged(2)), crops.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_stain_jitter_changes_only_the_crops_that_were_drawn(channels):
    crops = random_crops(3, channels)
    factors, shifts = unchanged(3)
    factors[0] = 1.3
    shifts[2] = 0.2
    jittered = stain_jitter(crops, factors, shifts)
    assert jittered.dtype == torch.float32 and jittered.shape == crops.shape
    torch.testing.assert_close(jittered[1], crops[1].float(), atol=1e-3, rtol=0)
    assert jittered[0].mean() < crops[0].float().mean() - 5
    assert jittered[2].mean() < crops[2].float().mean() - 5


def test_stain_jitter_is_colour_deconvolution_in_optical_density():
    crops = random_crops(4)
    rng = np.random.default_rng(1)
    factors, shifts = rng.uniform(0.8, 1.2, (4, 3)), rng.uniform(-0.1, 0.1, (4, 3))
    density = -np.log((crops.numpy().astype(float) + 1) / 256)
    stains = density @ np.linalg.inv(rgb_from_hed) * factors[:, None, None] + shifts[:, None, None]
    expected = (256 * np.exp(-stains @ rgb_from_hed) - 1).clip(0, 255)
    jittered = stain_jitter(crops, torch.tensor(factors).float(), torch.tensor(shifts).float())
    np.testing.assert_allclose(jittered.numpy(), expected, atol=0.01)


def test_the_eosin_factor_leaves_pure_haematoxylin_alone():
    blue = (256 * np.exp(-0.5 * rgb_from_hed[0]) - 1).round().astype(np.uint8)
    crops = torch.from_numpy(blue).expand(2, 5, 5, 3).contiguous()
    factors, shifts = unchanged(2)
    factors[0, 1] = 2
    factors[1, 0] = 2
    eosin, haematoxylin = stain_jitter(crops, factors, shifts).int()
    assert (eosin - crops[0].int()).abs().max() <= 1
    twice = torch.from_numpy(256 * np.exp(-rgb_from_hed[0]) - 1)
    assert (haematoxylin - twice).abs().max() <= 2


@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(1, [0.449], [0.226]), (3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
)
def test_normalised_crops_are_channels_first_with_imagenet_statistics(channels, mean, std):
    crops = random_crops(2, channels)
    inputs = normalise(crops)
    assert inputs.shape == (2, channels, 12, 12) and inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    expected = (crops.numpy() / 255 - mean) / std
    np.testing.assert_allclose(inputs.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_augmented_alike_in_any_batch(channels):
    crops = random_crops(10, channels)
    augment = draw_augmentation(10, True, 0.2, np.random.default_rng((0, 1)))
    together = augment(crops, torch.arange(10))
    assert not torch.equal(together, crops)
    for rows in torch.from_numpy(np.random.default_rng(2).permutation(10)).split(3):
        torch.testing.assert_close(augment(crops[rows], rows), together[rows], atol=1e-3, rtol=0)


def test_augmentation_depends_on_seed_and_epoch_and_nothing_else():
    crops, rows = random_crops(10), torch.arange(10)
    first, again, later, other = (
        draw_augmentation(10, True, 0.2, np.random.default_rng(seed))(crops, rows)
        for seed in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later) and not torch.equal(first, other)


def test_draws_fill_their_ranges():
    drawn = draw_augmentation(4000, True, 0.3, np.random.default_rng(0))
    assert set(drawn.d4.tolist()) == set(range(8))
    assert 0.7 <= drawn.factors.min() < 0.71 and 1.29 < drawn.factors.max() <= 1.3
    assert -0.15 <= drawn.shifts.min() < -0.145 and 0.145 < drawn.shifts.max() <= 0.15
    assert drawn.factors.dtype == drawn.shifts.dtype == torch.float32


def test_augmentation_can_be_switched_off():
    crops = random_crops(10)
    off = draw_augmentation(10, False, 0.0, np.random.default_rng(0))
    assert torch.equal(off(crops, torch.arange(10)), crops)
    turned = draw_augmentation(10, True, 0.0, np.random.default_rng(0))(crops, torch.arange(10))
    assert torch.equal(turned.flatten(1).sort().values, crops.flatten(1).sort().values)  # same pixels, other places
    assert not torch.equal(turned, crops)
