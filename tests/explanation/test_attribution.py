import io
import sys

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, NoiseTunnel, Occlusion
from torch import nn

from nuclei.explanation.attribution import attribute, explainable, grad_cam, integrated_gradients, methods, occlusion
from nuclei.models.networks import ResNet18, SmallCNN, build
from nuclei.models.transforms import normalise
from nuclei.params import Explain

CPU = torch.device("cpu")
SHAPES = {
    "cnn": SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2),
    "resnet": ResNet18(3, "pretrained"),
}
COLOURS = np.array([[200.0, 150, 190], [120, 60, 150], [240, 230, 235]])
SETTINGS = Explain(
    seed=0,
    crops=2,
    errors=1,
    checks=1,
    occlusion=[{"window": 50, "stride": 25}, {"window": 60, "stride": 40}],
    noise=0.05,
    noise_samples=3,
    steps=4,
    shap_samples=5,
    points=4,
)
METHODS = methods(SETTINGS, "float32", COLOURS)


def random_crops(n, channels=3, size=100, seed=0):
    """Blurred noise: neighbouring pixels are alike, as in tissue."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, size // 10, size // 10, channels))
    return coarse.repeat(10, axis=1).repeat(10, axis=2).astype(np.uint8)


def network(shape):
    """Random weights, with statistics of the batch norms as after training, in training mode."""
    own = build(shape, seed=3)
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean = 0.1 * torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    return own.train()


class Corner(nn.Module):
    """Logit 0 is the mean of a square of 4x4 pixels, logit 1 the opposite; nothing else matters."""

    def forward(self, inputs):
        brightness = inputs[:, :, 8:12, 4:8].mean(dim=(1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_occlusion_finds_the_only_square_that_matters(channels):
    crops = np.full((2, 20, 20, channels), 40, np.uint8)
    crops[:, 8:12, 4:8] = 240
    inputs = normalise(torch.from_numpy(crops))
    maps = occlusion(Corner(), inputs, torch.tensor([0, 1]), [0, 0], window=4, stride=4, precision="float32").numpy()
    assert maps.shape == (2, 20, 20) and maps.dtype == np.float32
    fall = float(Corner()(inputs)[0, 0] - inputs[:1].mean(dim=(2, 3)).mean())  # to the crop's mean colour
    expected = np.zeros((20, 20))
    expected[8:12, 4:8] = fall
    assert fall > 1
    np.testing.assert_allclose(maps[0], expected, atol=1e-5)
    np.testing.assert_allclose(maps[1], -expected, atol=1e-5)


def test_a_pixel_has_the_mean_of_the_squares_that_cover_it():
    inputs = normalise(torch.from_numpy(random_crops(1, size=20)))
    own = explainable(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 3)))
    found = occlusion(own, inputs, torch.tensor([2]), [0], window=8, stride=3, precision="float32")[0].numpy()
    total, count = np.zeros((20, 20)), np.zeros((20, 20))
    with torch.inference_mode():
        whole = own(inputs)[0, 2]
        for top in range(0, 13, 3):
            for left in range(0, 13, 3):
                masked = inputs.clone()
                masked[:, :, top : top + 8, left : left + 8] = inputs.mean(dim=(2, 3), keepdim=True)
                total[top : top + 8, left : left + 8] += float(whole - own(masked)[0, 2])
                count[top : top + 8, left : left + 8] += 1
    assert count.min() == 1
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def by_captum(method, own, crop, target, seed):
    """One crop, Captum's default call: one perturbation a pass."""
    even = crop.mean(dim=(2, 3), keepdim=True).expand_as(crop)
    noise = SETTINGS.noise * float(crop.max() - crop.min())
    torch.manual_seed(seed)
    np.random.seed(seed)
    if method == "occlusion_50":
        with torch.no_grad():
            return Occlusion(own).attribute(
                crop, sliding_window_shapes=(3, 50, 50), strides=(3, 25, 25), baselines=even, target=target
            )[0, 0]
    if method == "integrated_gradients":
        maps = NoiseTunnel(IntegratedGradients(own)).attribute(
            crop, nt_samples=3, stdevs=noise, baselines=even, n_steps=4, target=target
        )
    else:
        baselines = normalise(torch.from_numpy(COLOURS)[:, None, None]).expand(-1, -1, 100, 100)
        maps = GradientShap(own).attribute(crop, baselines=baselines, n_samples=5, stdevs=noise, target=target)
    return maps.detach()[0].sum(dim=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["occlusion_50", "integrated_gradients", "gradient_shap"])
def test_batches_give_what_captums_own_call_gives_crop_by_crop(shape, method):
    crops, targets, seeds = random_crops(2), np.array([1, 3]), [5, 6]
    own = network(SHAPES[shape]).eval()
    found = attribute(own, crops, targets, seeds, {method: METHODS[method]}, CPU)[method]
    assert found.shape == (2, 100, 100) and found.dtype == np.float32
    for crop, target, seed, values in zip(crops, targets, seeds, found, strict=True):
        inputs = normalise(torch.from_numpy(crop[None]))
        # Rounding decides on which side of a kink a gradient is taken: with folded batch norms at some pixels another.
        original = own if method == "occlusion_50" else explainable(own)
        expected = by_captum(method, original, inputs, int(target), seed).numpy()
        reach = np.abs(expected).max()
        assert reach > 0
        np.testing.assert_allclose(values / reach, expected / reach, atol=1e-3)


@pytest.mark.parametrize(("shape", "centres"), [("cnn", range(7, 100, 16)), ("resnet", range(0, 97, 32))])
def test_grad_cam_has_captums_values_at_the_centres_of_the_cells(shape, centres):
    own = network(SHAPES[shape])
    crops, targets = random_crops(2), np.array([2, 0])
    found = attribute(own, crops, targets, [0, 0], {"grad_cam": grad_cam}, CPU)["grad_cam"]
    layer = own.layer4 if shape == "resnet" else own[14]
    expected = LayerGradCam(own.eval(), layer).attribute(normalise(torch.from_numpy(crops)), torch.from_numpy(targets))
    expected = expected.detach().numpy()[:, 0]
    places = list(centres)
    reach = np.abs(expected).max()
    np.testing.assert_allclose(found[:, places][:, :, places] / reach, expected / reach, atol=1e-3)
    np.testing.assert_allclose(
        found[:, places[0], (places[1] + places[2]) // 2], expected[:, 0, 1:3].mean(axis=1), 1e-2
    )


@pytest.mark.parametrize("shape", [*SHAPES.values(), ResNet18(1, "no_pool"), ResNet18(3, "small")], ids=str)
def test_the_network_stays_as_it_was(shape):
    own = network(shape)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    if shape in SHAPES.values():
        attribute(own, random_crops(1), np.array([1]), [0], METHODS, CPU)
    ready = explainable(own)
    assert own.training and all(module.training for module in own.modules())
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert not any(module._forward_hooks for module in own.modules())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    inputs = normalise(torch.from_numpy(random_crops(2, shape.channels)))
    with torch.inference_mode():
        torch.testing.assert_close(ready(inputs), own.eval()(inputs), rtol=1e-4, atol=1e-4)
    assert not any(module.inplace for module in ready.modules() if isinstance(module, nn.ReLU))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())


def test_maps_are_the_same_bytes_every_time_and_leave_random_numbers_alone():
    own, crops = network(SHAPES["cnn"]), random_crops(5)
    targets, seeds = np.array([0, 1, 2, 3, 0]), [1, 2, 3, 4, 5]
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    first = attribute(own, crops, targets, seeds, METHODS, CPU)
    assert (torch.rand(1), np.random.rand()) == expected
    again = attribute(own, crops, targets, seeds, METHODS, CPU)
    assert list(first) == ["occlusion_50", "occlusion_60", "integrated_gradients", "gradient_shap", "grad_cam"]
    for name, maps in first.items():
        assert maps.tobytes() == again[name].tobytes()
        assert maps.shape == (5, 100, 100) and maps.dtype == np.float32 and np.isfinite(maps).all()


def test_a_crop_is_explained_alike_in_any_company(tmp_path):
    own, crops = network(SHAPES["cnn"]), random_crops(6)
    np.save(tmp_path / "crops.npy", crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    together = attribute(own, mapped, np.array([0, 1, 2, 3, 0, 1]), list(range(6)), METHODS, CPU)
    alone = attribute(own, crops[5:], np.array([1]), [5], METHODS, CPU)
    for name, maps in alone.items():
        np.testing.assert_allclose(together[name][5:], maps, atol=1e-5 * np.abs(maps).max(), rtol=1e-3)


@pytest.mark.parametrize("way", ["integrated_gradients", "gradient_shap"])
def test_another_seed_draws_other_noise(way):
    inputs = normalise(torch.from_numpy(random_crops(1)))
    one, other = (METHODS[way](explainable(network(SHAPES["cnn"])), inputs, torch.tensor([1]), [s]) for s in (1, 2))
    assert not torch.equal(one, other)


def test_integrated_gradients_add_up_to_the_change_of_the_logit():
    """Completeness, Sundararajan et al. 2017: without noise, from the mean colour to the crop."""
    own = explainable(network(SHAPES["cnn"]))
    inputs = normalise(torch.from_numpy(random_crops(2)))
    targets = torch.tensor([0, 3])
    maps = integrated_gradients(own, inputs, targets, [0, 0], steps=64, samples=1, noise=0.0)
    even = inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs)
    change = (own(inputs) - own(even))[[0, 1], targets]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), change, rtol=0.02, atol=1e-3)


def test_grey_crops_are_explained_too():
    own = network(SmallCNN(channels=1, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.0))
    maps = attribute(own, random_crops(1, 1), np.array([2]), [0], methods(SETTINGS, "float32", COLOURS[:, :1]), CPU)
    assert all(values.shape == (1, 100, 100) for values in maps.values())


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("label", "screen", "shown"), [("cnn", Screen(), True), ("", Screen(), False)])
def test_a_screen_shows_how_far_it_is_and_the_time_left(label, screen, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen)
    attribute(network(SHAPES["cnn"]), random_crops(5), np.zeros(5, int), [0] * 5, {"grad_cam": grad_cam}, CPU, label)
    text = screen.getvalue()
    assert ("cnn" in text and "/5 [" in text and "crop/s" in text) if shown else text == ""
