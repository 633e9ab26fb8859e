"""What a network looks at, by Captum.

A map says of each pixel how much it speaks for a class (above zero) or against it (below): float32 (H, W).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, NoiseTunnel, Occlusion
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from nuclei.device import autocast
from nuclei.models.transforms import normalise
from nuclei.params import Explain

CROPS_PER_PASS = 4
IMAGES_A_PASS = 256  # crops times windows, or samples times steps: what goes through the network together

# Takes a network, inputs (N, C, H, W) normalised, targets (N,) and a seed a crop; returns maps (N, H, W).
Method = Callable[[nn.Module, Tensor, Tensor, Sequence[int]], Tensor]


def methods(settings: Explain, precision: str, colours: np.ndarray) -> dict[str, Method]:
    """Name the methods that `settings` ask for: every occlusion (occlusion_20: its window), then the gradients'.

    precision: of the occlusions' forward passes (see `autocast`); gradients are always float32;
    colours: float (B, C) in 0..255, that GradientSHAP compares crops with
    """
    occlusions = {
        f"occlusion_{own.window}": partial(occlusion, window=own.window, stride=own.stride, precision=precision)
        for own in settings.occlusion
    }
    return occlusions | {
        "integrated_gradients": partial(
            integrated_gradients, steps=settings.steps, samples=settings.noise_samples, noise=settings.noise
        ),
        "gradient_shap": partial(gradient_shap, colours=colours, samples=settings.shap_samples, noise=settings.noise),
        "grad_cam": grad_cam,
    }


def attribute(
    network: nn.Module,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: Sequence[int],
    methods: Mapping[str, Method],
    device: torch.device,
    label: str = "",
) -> dict[str, np.ndarray]:
    """Return the maps of all `crops` by each method: float32 (N, H, W). `network` stays as it is.

    crops: uint8 (N, H, W, C), they may be memory-mapped; targets: int (N,), the classes to explain;
    seeds: one a crop, of all that is random; label: heads the progress bar; empty: none
    """
    ready = explainable(network).to(device)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    bar = tqdm(total=len(crops), desc=label, unit="crop", leave=False, disable=None if label else True)
    for start in range(0, len(crops), CROPS_PER_PASS):
        some = slice(start, start + CROPS_PER_PASS)
        inputs = normalise(torch.from_numpy(np.array(crops[some])).to(device))
        classes = torch.from_numpy(np.asarray(targets[some], np.int64)).to(device)
        for name, method in methods.items():
            parts[name].append(method(ready, inputs, classes, seeds[some]).cpu().numpy())
        bar.update(len(inputs))
    bar.close()
    return {name: np.concatenate(maps) for name, maps in parts.items()}


def explainable(network: nn.Module) -> nn.Module:
    """Copy `network`, in evaluation mode, into a form that gives the same logits and is fit to be looked into.

    No activation overwrites its input: hooks would see what comes after it. No weight asks for a gradient, and each
    batch norm is folded into the convolution before it: a third of the time.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = False
        for (name, layer), (following, norm) in pairwise(module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, following, nn.Identity())
    return network.to(memory_format=torch.channels_last)


def occlusion(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    window: int,
    stride: int,
    precision: str,
) -> Tensor:
    """Return how far the logit falls where a square of `window` pixels that moves by `stride` is hidden.

    It is filled with its crop's mean colour; a pixel's value is the mean over the squares that cover it.
    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".
    """

    def logits(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            return network(images).float()

    with torch.inference_mode():
        maps = Occlusion(logits).attribute(
            inputs,
            sliding_window_shapes=(inputs.shape[1], window, window),
            strides=(1, stride, stride),
            baselines=_mean_colour(inputs),
            target=targets,
            perturbations_per_eval=max(IMAGES_A_PASS // len(inputs), 1),
        )
    return maps.mean(dim=1).float()  # Captum repeats the value in every channel


def integrated_gradients(
    network: nn.Module, inputs: Tensor, targets: Tensor, seeds: Sequence[int], steps: int, samples: int, noise: float
) -> Tensor:
    """Return gradients integrated from the crop's mean colour to the crop, averaged over noisy copies of it.

    steps: of the integral; samples: noisy copies; noise: their standard deviation, as a share of the crop's range.
    Sources: Sundararajan et al. 2017, "Axiomatic attribution for deep networks"; Smilkov et al. 2017, "SmoothGrad".
    """
    method = NoiseTunnel(IntegratedGradients(network))
    maps = [
        method.attribute(
            crop,
            nt_samples=samples,
            nt_samples_batch_size=max(IMAGES_A_PASS // steps, 1),
            stdevs=_deviation(crop, noise),
            baselines=_mean_colour(crop),
            target=target,
            n_steps=steps,
        )
        for crop, target in _seeded(inputs, targets, seeds)
    ]
    return torch.cat(maps).detach().sum(dim=1)


def gradient_shap(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    colours: np.ndarray,
    samples: int,
    noise: float,
) -> Tensor:
    """Return the expected gradient on the way from an even colour, drawn from `colours` (B, C), to a noisy copy.

    Colours, not whole crops: those would show through unless there were thousands of samples.
    samples: ways; noise: as in `integrated_gradients`.
    Source: Lundberg & Lee 2017, "A unified approach to interpreting model predictions".
    """
    even = normalise(torch.from_numpy(colours)[:, None, None].to(inputs.device))
    baselines = even.expand(-1, -1, *inputs.shape[2:])
    maps = [
        GradientShap(network).attribute(
            crop, baselines=baselines, n_samples=samples, stdevs=_deviation(crop, noise), target=target
        )
        for crop, target in _seeded(inputs, targets, seeds)
    ]
    return torch.cat(maps).detach().sum(dim=1)


def grad_cam(network: nn.Module, inputs: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the activations of the last convolutional layer, weighted with their mean gradients, signs kept.

    Between the centres of the layer's cells the map is linear, beyond the outermost ones constant.
    Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization".
    """
    layer, convolutions = _last_convolutional(network)
    first, step = _geometry(convolutions)
    cells = LayerGradCam(network, layer).attribute(inputs.detach().requires_grad_(), target=targets).detach()[:, 0]
    rows, columns = (
        _interpolation(first, step, count, size).to(cells)
        for count, size in zip(cells.shape[1:], inputs.shape[2:], strict=True)
    )
    return rows @ cells @ columns.T


def _last_convolutional(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the layer whose output Grad-CAM looks at, and the part of the network that ends with it."""
    if not isinstance(network, nn.Sequential):
        return network.layer4, network
    pooling = next(place for place, module in enumerate(network) if isinstance(module, nn.Flatten)) - 1
    return network[pooling - 1], network[:pooling]


def _geometry(convolutions: nn.Module) -> tuple[float, int]:
    """Return the pixel at the centre of the first cell of the last layer, and the pixels from cell to cell."""
    first, step = 0.0, 1
    for name, module in convolutions.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
            kernel, stride, padding = (
                value if isinstance(value, int) else value[0]
                for value in (module.kernel_size, module.stride, module.padding)
            )
            first += ((kernel - 1) / 2 - padding) * step
            step *= stride
    return first, step


def _interpolation(first: float, step: int, cells: int, size: int) -> Tensor:
    """Return the weights, float32 (size, cells), of linear interpolation between the cells' centres."""
    place = ((torch.arange(size) - first) / step).clamp(0, cells - 1)
    return (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _mean_colour(inputs: Tensor) -> Tensor:
    return inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs)


def _deviation(crop: Tensor, noise: float) -> float:
    return noise * float(crop.max() - crop.min())


def _seeded(inputs: Tensor, targets: Tensor, seeds: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """Yield each crop (1, C, H, W) and its target while Captum's sources of random numbers start from its seed."""
    for crop, target, seed in zip(inputs.split(1), targets.tolist(), seeds, strict=True):
        with _random_from(int(seed)):
            yield crop, target


@contextmanager
def _random_from(seed: int) -> Iterator[None]:
    """Seed PyTorch and NumPy, and put their states back."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
