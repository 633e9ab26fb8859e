import io
import sys

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients, Occlusion
from references import NO_REFERENCE
from torch import nn

from nuclei.explanation.attribution import attribute, integrated_gradients, methods, occlusion
from nuclei.explanation.explainable import (
    BASELINES,
    Explainable,
    blurred,
    explainable,
    mean_colour,
    predict_single_view,
)
from nuclei.explanation.layer_cam import layer_cam, pixels_per_cell
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.transforms import normalise
from nuclei.params import Explain

CPU = torch.device("cpu")
SHAPES = {
    "cnn": SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2),
    "resnet": Backbone(3, "resnet18", "pretrained"),
}
COLOURS = np.array([[200.0, 150, 190], [120, 60, 150], [240, 230, 235]])
SETTINGS = Explain(
    seed=0,
    crops=2,
    stratify=True,
    gallery_crops=1,
    errors=1,
    sanity_crops=1,
    random_networks=2,
    methods=["occlusion", "integrated_gradients", "gradient_shap", "layer_cam"],
    occlusion=[{"window": 50, "stride": 25}, {"window": 60, "stride": 40}],
    ig_steps=4,
    smoothgrad_samples=0,
    noise_std=0.05,
    shap_samples=5,
    curve_points=4,
    patch=10,
)
METHODS = methods(SETTINGS, "float32", COLOURS)


def random_crops(n, channels=3, size=100, seed=0):
    """Blurred noise: neighbouring pixels are alike, as in tissue."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, size // 10, size // 10, channels))
    return coarse.repeat(10, axis=1).repeat(10, axis=2).astype(np.uint8)


def model(shape):
    """Random weights, with statistics of the batch norms as after training, in training mode."""
    network = build(shape, seed=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean = 0.1 * torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    averaged, single = Calibration(2.9), Calibration(1.7)  # maps are of single views
    return Model("cnn", network.train(), shape, averaged, single, NO_REFERENCE)


def baselines_of(crops):
    """Both baselines, normalised: (2, N, C, H, W)."""
    images = [np.ascontiguousarray(baseline(crops)) for baseline in BASELINES.values()]
    return torch.stack([normalise(torch.from_numpy(image)) for image in images])


class Corner(nn.Module):
    """Log-odds of class 0 are the mean of a square of 4x4 pixels; nothing else matters."""

    def forward(self, inputs):
        brightness = inputs[:, :, 8:12, 4:8].mean(dim=(1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_occlusion_finds_the_only_square_that_matters(channels):
    crops = np.full((2, 20, 20, channels), 40, np.uint8)
    crops[:, 8:12, 4:8] = 240
    inputs, baselines = normalise(torch.from_numpy(crops)), baselines_of(crops)
    network = Explainable(Corner(), 1.0, nn.Identity())
    maps = occlusion(network, inputs, baselines, torch.tensor([0, 1]), [0, 0], 4, 4, "float32").numpy()
    assert maps.shape == (2, 20, 20) and maps.dtype == np.float32
    fall = network(inputs)[0] - network(baselines[0])[0]  # to the crop's mean colour
    for values, change in zip(maps, fall.tolist(), strict=True):
        expected = np.zeros((20, 20))
        expected[8:12, 4:8] = change
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert fall[0] > 0.1 > -0.1 > fall[1]


def test_a_pixel_has_the_mean_of_the_squares_that_cover_it():
    crops = random_crops(1, size=20)
    inputs, baselines = normalise(torch.from_numpy(crops)), baselines_of(crops)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 3))
    network = Explainable(network, 1.0, network[1])
    found = occlusion(network, inputs, baselines, torch.tensor([2]), [0], 8, 3, "float32")[0].numpy()
    total, count = np.zeros((20, 20)), np.zeros((20, 20))
    with torch.inference_mode():
        whole = network(inputs)[0, 2]
        for top in range(0, 13, 3):
            for left in range(0, 13, 3):
                masked = inputs.clone()
                square = np.s_[:, :, top : top + 8, left : left + 8]
                masked[square] = baselines[0][square]
                total[square[2:]] += float(whole - network(masked)[0, 2])
                count[square[2:]] += 1
    assert count.min() == 1
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def by_captum(method, network, crop, target, seed):
    """One crop, Captum's default call: one perturbation per pass."""
    inputs, (even, blur) = normalise(torch.from_numpy(crop)), baselines_of(crop)
    noise = SETTINGS.noise_std * float(inputs.max() - inputs.min())
    torch.manual_seed(seed)
    np.random.seed(seed)
    if method == "occlusion_50":
        with torch.no_grad():
            return Occlusion(network).attribute(
                inputs, sliding_window_shapes=(3, 50, 50), strides=(3, 25, 25), baselines=even, target=target
            )[0, 0]
    if method == "integrated_gradients":
        each = [
            IntegratedGradients(network).attribute(inputs, baselines=baseline, n_steps=4, target=target)
            for baseline in (even, blur)
        ]
        maps = sum(each) / 2
    else:
        colours = normalise(torch.from_numpy(COLOURS)[:, None, None]).expand(-1, -1, 100, 100)
        maps = GradientShap(network).attribute(inputs, baselines=colours, n_samples=5, stdevs=noise, target=target)
    return maps.detach()[0].sum(dim=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["occlusion_50", "integrated_gradients", "gradient_shap"])
def test_batches_give_what_captums_call_gives_crop_by_crop(shape, method):
    crops, targets, seeds = random_crops(2), np.array([1, 3]), [5, 6]
    own = model(SHAPES[shape])
    found = attribute(own, crops, targets, seeds, {method: METHODS[method]}, CPU)[method]
    assert found.shape == (2, 100, 100) and found.dtype == np.float32
    for number, (target, seed, values) in enumerate(zip(targets, seeds, found, strict=True)):
        # Rounding decides on which side of a kink a gradient is taken: not with other batch norms than folded ones.
        expected = by_captum(method, explainable(own), crops[number : number + 1], int(target), seed).numpy()
        reach = np.abs(expected).max()
        assert reach > 0
        np.testing.assert_allclose(values / reach, expected / reach, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "centres"),
    [
        (SHAPES["cnn"], range(3, 100, 8)),
        (SHAPES["resnet"], range(0, 97, 8)),
        (Backbone(3, "resnet18", "no_pool"), range(0, 97, 8)),
    ],
    ids=str,
)
def test_layer_cam_has_its_values_at_the_centres_of_the_cells(shape, centres):
    own, crops = model(shape), random_crops(2)
    targets = torch.tensor([2, 0])
    found = attribute(own, crops, targets.numpy(), [0, 0], {"layer_cam": layer_cam}, CPU)["layer_cam"]
    network, outputs = explainable(own), []
    network.cam_layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    answer = network(normalise(torch.from_numpy(crops)).requires_grad_())[[0, 1], targets].sum()
    (gradient,) = torch.autograd.grad(answer, outputs)
    expected = (gradient.clamp(min=0) * outputs[0]).sum(dim=1).detach().numpy()  # Jiang et al. 2021, eq. 6
    places = list(centres)[: expected.shape[1]]
    reach = expected.max()
    assert reach > 0 and found.min() >= 0
    np.testing.assert_allclose(found[:, places][:, :, places] / reach, expected / reach, atol=1e-3)
    middle = (found[:, places[0], places[1]] + found[:, places[0], places[2]]) / 2
    np.testing.assert_allclose(found[:, places[0], (places[1] + places[2]) // 2] / reach, middle / reach, atol=1e-3)
    assert pixels_per_cell(network, (100, 100, 3)) == centres.step


def test_a_layer_that_kernels_and_strides_do_not_explain_is_spread_evenly():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(100, 3))
    network = Explainable(network, 1.0, network[1])
    assert pixels_per_cell(network, (60, 60, 3)) == 12


@pytest.mark.parametrize(
    "shape", [*SHAPES.values(), Backbone(1, "resnet18", "no_pool"), Backbone(3, "resnet18", "small")], ids=str
)
def test_the_network_stays_as_it_was(shape):
    own = model(shape)
    before = {name: value.clone() for name, value in own.network.state_dict().items()}
    if shape in SHAPES.values():
        attribute(own, random_crops(1), np.array([1]), [0], METHODS, CPU)
    ready = explainable(own)
    assert own.network.training and all(module.training for module in own.network.modules())
    assert all(parameter.requires_grad for parameter in own.network.parameters())
    assert not any(module._forward_hooks for module in own.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in own.network.state_dict().items())
    crops = random_crops(2, shape.channels)
    inputs = normalise(torch.from_numpy(crops))
    with torch.inference_mode():
        expected = torch.log_softmax(own.network.eval()(inputs) / 1.7, dim=1)
        torch.testing.assert_close(ready(inputs), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predict_single_view(ready, crops, CPU, "float32"), expected.exp(), atol=1e-4)
    assert not any(module.inplace for module in ready.modules() if isinstance(module, nn.ReLU))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())


def test_maps_are_the_same_bytes_every_time_and_leave_random_numbers_alone():
    own, crops = model(SHAPES["cnn"]), random_crops(5)
    targets, seeds = np.array([0, 1, 2, 3, 0]), [1, 2, 3, 4, 5]
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    first = attribute(own, crops, targets, seeds, METHODS, CPU)
    assert (torch.rand(1), np.random.rand()) == expected
    again = attribute(own, crops, targets, seeds, METHODS, CPU)
    assert list(first) == ["occlusion_50", "occlusion_60", "integrated_gradients", "gradient_shap", "layer_cam"]
    for name, maps in first.items():
        assert maps.tobytes() == again[name].tobytes()
        assert maps.shape == (5, 100, 100) and maps.dtype == np.float32 and np.isfinite(maps).all()


def test_a_crop_is_explained_alike_in_any_company(tmp_path):
    own, crops = model(SHAPES["cnn"]), random_crops(10)
    np.save(tmp_path / "crops.npy", crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    together = attribute(own, mapped, np.arange(10) % 4, list(range(10)), METHODS, CPU)
    alone = attribute(own, crops[9:], np.array([1]), [9], METHODS, CPU)
    for name, maps in alone.items():
        np.testing.assert_allclose(together[name][9:], maps, atol=1e-5 * np.abs(maps).max(), rtol=1e-3)


@pytest.mark.parametrize("way", ["integrated_gradients", "gradient_shap"])
def test_another_seed_draws_other_noise_and_the_same_seed_the_same(way):
    crops = random_crops(1)
    settings = SETTINGS.model_copy(update={"smoothgrad_samples": 2})
    method = methods(settings, "float32", COLOURS)[way]
    inputs, baselines, network = (
        normalise(torch.from_numpy(crops)),
        baselines_of(crops),
        explainable(model(SHAPES["cnn"])),
    )
    first, other, again = (method(network, inputs, baselines, torch.tensor([1]), [seed]) for seed in (1, 2, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_integrated_gradients_add_up_to_the_change_of_the_log_probability():
    """Completeness, Sundararajan et al. 2017, in the mean over the two baselines."""
    own, crops = explainable(model(SHAPES["cnn"])), random_crops(2)
    inputs, baselines = normalise(torch.from_numpy(crops)), baselines_of(crops)
    targets = torch.tensor([0, 3])
    maps = integrated_gradients(own, inputs, baselines, targets, [0, 0], steps=64, samples=0, noise_std=0.0)
    change = own(inputs)[[0, 1], targets] - torch.stack([own(even)[[0, 1], targets] for even in baselines]).mean(dim=0)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), change, rtol=0.02, atol=1e-3)


def test_the_baselines_show_no_nucleus_but_the_crops_colours():
    crops = random_crops(2)
    even, blur = mean_colour(crops), blurred(crops)
    assert even.shape == blur.shape == crops.shape and even.dtype == blur.dtype == np.uint8
    assert (even == even[:, :1, :1]).all() and not (blur == blur[:, :1, :1]).all()
    np.testing.assert_allclose(even.mean(axis=(1, 2)), crops.mean(axis=(1, 2)), atol=0.51)
    assert (blur.std(axis=(1, 2)) < 0.5 * crops.std(axis=(1, 2))).all()


def test_grey_crops_of_any_size_are_explained_too():
    own = model(Backbone(1, "resnet18", "pretrained"))
    crops = random_crops(1, 1, size=130)
    maps = attribute(own, crops, np.array([2]), [0], methods(SETTINGS, "float32", COLOURS[:, :1]), CPU)
    assert all(values.shape == (1, 130, 130) for values in maps.values())


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("label", "screen", "shown"), [("cnn", Screen(), True), ("", Screen(), False)])
def test_a_screen_shows_how_far_it_is_and_the_time_left(label, screen, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen)
    attribute(model(SHAPES["cnn"]), random_crops(9), np.zeros(9, int), [0] * 9, {"layer_cam": layer_cam}, CPU, label)
    text = screen.getvalue()
    assert ("cnn" in text and "/9 [" in text and "crop/s" in text) if shown else text == ""
