import numpy as np
import pytest
import torch
from torch import nn

from nuclei.attribution import choose_examples, occlusion
from nuclei.crops import normalise

CPU = torch.device("cpu")


class Corner(nn.Module):
    """Logit 0 is the mean of a square of 4x4 pixels, logit 1 the opposite; nothing else matters."""

    def forward(self, inputs):
        brightness = inputs[:, :, 8:12, 4:8].mean(dim=(1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


def bright_square(channels):
    crop = np.full((1, 20, 20, channels), 40, np.uint8)
    crop[:, 8:12, 4:8] = 240
    return crop


@pytest.mark.parametrize("channels", [1, 3])
def test_occlusion_finds_the_only_square_that_matters(channels):
    crops = np.repeat(bright_square(channels), 2, axis=0)
    maps = occlusion(Corner(), crops, np.array([0, 1]), window=4, stride=4, device=CPU, precision="float32")
    assert maps.shape == (2, 20, 20) and maps.dtype == np.float32
    inputs = normalise(torch.from_numpy(crops[:1]))
    fall = float(Corner()(inputs)[0, 0] - inputs.mean(dim=(2, 3)).mean())  # from the square to the crop's mean colour
    expected = np.zeros((20, 20))
    expected[8:12, 4:8] = fall
    assert fall > 1
    np.testing.assert_allclose(maps[0], expected, atol=1e-5)
    np.testing.assert_allclose(maps[1], -expected, atol=1e-5)


def test_a_pixel_has_the_mean_of_the_squares_that_cover_it():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 3)
        )
    crop = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3)).astype(np.uint8)
    found = occlusion(network.train(), crop, np.array([2]), window=8, stride=3, device=CPU, precision="float32")[0]

    inputs = normalise(torch.from_numpy(crop))
    total, count = np.zeros((20, 20)), np.zeros((20, 20))
    with torch.inference_mode():
        whole = network.eval()(inputs)[0, 2]
        for top in range(0, 13, 3):
            for left in range(0, 13, 3):
                masked = inputs.clone()
                masked[:, :, top : top + 8, left : left + 8] = inputs.mean(dim=(2, 3), keepdim=True)
                total[top : top + 8, left : left + 8] += float(whole - network(masked)[0, 2])
                count[top : top + 8, left : left + 8] += 1
    assert count.min() == 1
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_a_crop_is_explained_alike_in_any_company(tmp_path):
    crops = np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)
    np.save(tmp_path / "crops.npy", crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    together = occlusion(Corner(), mapped, np.array([0, 1, 0]), 4, 2, CPU, "float32")
    alone = occlusion(Corner(), crops[1:2], np.array([1]), 4, 2, CPU, "float32")
    assert np.array_equal(together[1:2], alone)


def test_examples_are_half_right_ones_and_half_wrong_ones_of_each_class():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    predicted = labels.copy()
    predicted[[4, 6, 8, 7]] ^= 1
    assert choose_examples(labels, predicted[None], 2).tolist() == [0, 4, 1, 7]
    assert choose_examples(labels, predicted[None], 4).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_an_example_is_right_only_where_every_model_is():
    labels = np.zeros(4, int)
    predicted = np.array([[0, 1, 0, 0], [0, 0, 1, 0]])
    assert choose_examples(labels, predicted, 4).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [([], [0, 1, 2, 3]), ([0, 1, 2, 3, 4], [5, 0, 1, 2]), ([5], [0, 1, 2, 5]), ([0, 1, 2, 3], [4, 5, 0, 1])],
)
def test_the_other_half_fills_up_where_one_runs_short(wrong, expected):
    labels, predicted = np.zeros(6, int), np.zeros((1, 6), int)
    predicted[0, wrong] = 3
    assert choose_examples(labels, predicted, 4).tolist() == expected


def test_a_small_class_gives_all_it_has():
    assert choose_examples(np.array([0, 1, 1, 1]), np.array([[0, 1, 2, 1]]), 6).tolist() == [0, 1, 3, 2]
