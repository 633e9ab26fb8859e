"""What a network looks at, by Captum.

A map says of each pixel how much it raises the log-probability of a class (above zero) or lowers it (below): float32
(H, W). The log-probability, not the logit: a logit may rise for every class at once (Srinivas & Fleuret 2021,
"Rethinking the role of gradient-based attribution methods for model interpretability").
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from captum.attr import GradientShap, IntegratedGradients, LayerGradientXActivation, Occlusion
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from nuclei.crops import normalise
from nuclei.device import autocast
from nuclei.models import Model
from nuclei.params import Explain

CROPS_PER_PASS = 8
IMAGES_PER_PASS = 256  # at most: crops times windows, or crops times steps
BLUR = 0.1  # standard deviation of the blurred baseline, as a share of the crop's height


class Explainable(nn.Module):
    """A network in a form that gives log-probabilities, float32 (N, K), and is fit to be looked into.

    Attributes:
        network: Gives logits; no activation overwrites its input, no weight asks for a gradient.
        temperature: What the logits are divided by: that of single views, for maps are of the crop as it is.
        cam_layer: The layer of `network` whose feature maps LayerCAM weighs.
    """

    def __init__(self, network: nn.Module, temperature: float, cam_layer: nn.Module):
        super().__init__()
        self.network, self.temperature, self.cam_layer = network, temperature, cam_layer

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.log_softmax(self.network(inputs).float() / self.temperature, dim=1)


# Takes a network, inputs (N, C, H, W) normalised, their baselines (B, N, C, H, W), targets (N,) and a seed per crop;
# returns maps (N, H, W).
Method = Callable[[Explainable, Tensor, Tensor, Tensor, Sequence[int]], Tensor]


def mean_colour(crops: np.ndarray) -> np.ndarray:
    """Return each crop, uint8 (N, H, W, C), evenly in its mean colour."""
    means = crops.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(means, crops.shape)


def blurred(crops: np.ndarray) -> np.ndarray:
    """Return each crop, uint8 (N, H, W, C), too blurred to show a nucleus.

    Source: Fong & Vedaldi 2017, "Interpretable explanations of black boxes by meaningful perturbation".
    """
    sigma = BLUR * crops.shape[1]
    return gaussian_filter(crops.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)


# What stands for "nothing to see". None is neutral to every network, so there are two, and what a network says of each
# is reported (Sturmfels et al. 2020, "Visualizing the impact of feature attribution baselines").
BASELINES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"mean_colour": mean_colour, "blurred": blurred}


def methods(settings: Explain, precision: str, colours: np.ndarray) -> dict[str, Method]:
    """Return the methods that `settings` ask for by name; every occlusion is named by its window: occlusion_20.

    Args:
        settings: Which methods, and how each is computed.
        precision: Of the occlusions' forward passes (see `autocast`); gradients are always float32.
        colours: float (B, C) in 0..255, that GradientSHAP compares crops with.
    """
    available: dict[str, dict[str, Method]] = {
        "occlusion": {
            f"occlusion_{item.window}": partial(occlusion, window=item.window, stride=item.stride, precision=precision)
            for item in settings.occlusion
        },
        "integrated_gradients": {
            "integrated_gradients": partial(
                integrated_gradients,
                steps=settings.ig_steps,
                samples=settings.smoothgrad_samples,
                noise_std=settings.noise_std,
            )
        },
        "gradient_shap": {
            "gradient_shap": partial(
                gradient_shap, colours=colours, samples=settings.shap_samples, noise_std=settings.noise_std
            )
        },
        "layer_cam": {"layer_cam": layer_cam},
    }
    return {name: method for kind in settings.methods for name, method in available[kind].items()}


def attribute(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: Sequence[int],
    methods: Mapping[str, Method],
    device: torch.device,
    desc: str = "",
) -> dict[str, np.ndarray]:
    """Return the maps of all `crops` by each method: float32 (N, H, W). `model` stays as it is.

    Args:
        model: The network to look into.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        targets: int (N,) in 0..K-1, the classes to explain.
        seeds: One per crop, of all that is random.
        methods: By name, see `methods`.
        device: Where to compute.
        desc: Heads the progress bar; empty: none.
    """
    network = explainable(model).to(device)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    bar = tqdm(total=len(crops), desc=desc, unit="crop", leave=False, disable=None if desc else True)
    for start in range(0, len(crops), CROPS_PER_PASS):
        batch = slice(start, start + CROPS_PER_PASS)
        chosen = np.array(crops[batch])
        inputs, *baselines = (
            normalise(torch.from_numpy(np.ascontiguousarray(images)).to(device))
            for images in (chosen, *(baseline(chosen) for baseline in BASELINES.values()))
        )
        classes = torch.from_numpy(np.asarray(targets[batch], np.int64)).to(device)
        for name, method in methods.items():
            maps = method(network, inputs, torch.stack(baselines), classes, seeds[batch])
            parts[name].append(maps.float().cpu().numpy())
        bar.update(len(inputs))
    bar.close()
    return {name: np.concatenate(maps) for name, maps in parts.items()}


def explainable(model: Model) -> Explainable:
    """Copy the network of `model`, in evaluation mode, into a form that is fit to be looked into.

    Each batch norm is folded into the convolution before it: a third of the time.
    """
    network = copy.deepcopy(model.network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = False  # hooks would see what comes after it
        for (name, layer), (following, norm) in pairwise(module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, following, nn.Identity())
    network = network.to(memory_format=torch.channels_last)
    return Explainable(network, model.temperature, model.architecture.cam_layer(network))


@torch.inference_mode()
def predict_single_view(
    network: Explainable, crops: np.ndarray, device: torch.device, precision: str, batch_size: int = 64
) -> np.ndarray:
    """Return the calibrated probability of each class, float32 (N, K), of crops as they are: not flipped, not turned.

    Args:
        network: On `device`; three quarters of the time that the network with its batch norms takes.
        crops: uint8 (N, H, W, C).
        device: Where to compute.
        precision: See `autocast`.
        batch_size: Crops per pass.
    """
    probabilities = []
    for start in range(0, len(crops), batch_size):
        inputs = normalise(torch.from_numpy(np.ascontiguousarray(crops[start : start + batch_size])).to(device))
        with autocast(device, precision):
            probabilities.append(network(inputs).exp().float())
    return torch.cat(probabilities).cpu().numpy()


def occlusion(
    network: Explainable,
    inputs: Tensor,
    baselines: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    window: int,
    stride: int,
    precision: str,
) -> Tensor:
    """Return how far the log-probability falls where a square that moves over the crop is hidden.

    It is filled with the first of `baselines`; a pixel's value is the mean over the squares that cover it.
    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".

    Args:
        network, inputs, baselines, targets, seeds: See `Method`.
        window: Pixels per side of the square.
        stride: Pixels from square to square.
        precision: See `autocast`.
    """

    def log_probabilities(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            return network(images).float()

    with torch.inference_mode():
        maps = Occlusion(log_probabilities).attribute(
            inputs,
            sliding_window_shapes=(inputs.shape[1], window, window),
            strides=(1, stride, stride),
            baselines=baselines[0],
            target=targets,
            perturbations_per_eval=max(IMAGES_PER_PASS // len(inputs), 1),
        )
    return maps.mean(dim=1)  # Captum repeats the value in every channel


def integrated_gradients(
    network: Explainable,
    inputs: Tensor,
    baselines: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    steps: int,
    samples: int,
    noise_std: float,
) -> Tensor:
    """Return the gradients integrated from each baseline to the crop, averaged over the baselines.

    They add up to the log-probability of the crop minus the mean of those of its baselines, up to the error of the
    integral (the convergence delta).
    Sources: Sundararajan et al. 2017, "Axiomatic attribution for deep networks"; Erion et al. 2021, "Improving
    performance of deep learning models with axiomatic attribution priors and expected gradients" (several baselines);
    Smilkov et al. 2017, "SmoothGrad" (noisy copies).

    Args:
        network, inputs, baselines, targets, seeds: See `Method`.
        steps: Of each integral.
        samples: Noisy copies of the crop to average over; 0: the crop itself.
        noise_std: Standard deviation of the noise, as a share of the crop's range.
    """
    method, count = IntegratedGradients(network), len(baselines)
    maps = [
        method.attribute(
            copies.repeat(count, 1, 1, 1),
            baselines=baselines.flatten(0, 1),
            target=targets.repeat(count),
            n_steps=steps,
            internal_batch_size=IMAGES_PER_PASS,
        )
        for copies in _noisy(inputs, seeds, samples, noise_std)
    ]
    return torch.stack(maps).mean(dim=0).detach().sum(dim=1).unflatten(0, (count, len(inputs))).mean(dim=0)


def _noisy(inputs: Tensor, seeds: Sequence[int], samples: int, noise_std: float) -> Iterator[Tensor]:
    """Yield `samples` noisy copies of the inputs, each crop's noise drawn from its seed; 0: the inputs as they are."""
    if not samples:
        yield inputs
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    ranges = (inputs.amax(dim=(1, 2, 3)) - inputs.amin(dim=(1, 2, 3))).view(-1, 1, 1, 1)
    for _ in range(samples):
        noise = torch.stack([torch.randn(inputs.shape[1:], generator=generator) for generator in generators])
        yield inputs + noise_std * ranges * noise.to(inputs.device)


def gradient_shap(
    network: Explainable,
    inputs: Tensor,
    baselines: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    colours: np.ndarray,
    samples: int,
    noise_std: float,
) -> Tensor:
    """Return the expected gradient on the way from an even colour, drawn from `colours`, to a noisy copy of the crop.

    Colours, not whole crops: those would show through unless there were thousands of samples.
    Sources: Lundberg & Lee 2017, "A unified approach to interpreting model predictions"; Erion et al. 2021.

    Args:
        network, inputs, baselines, targets, seeds: See `Method`; the baselines are not used.
        colours: float (B, C) in 0..255.
        samples: Pairs of a colour and a copy.
        noise_std: As in `integrated_gradients`.
    """
    even = normalise(torch.from_numpy(colours)[:, None, None].to(inputs.device))
    even = even.expand(-1, -1, *inputs.shape[2:])
    maps = []
    for crop, target, seed in zip(inputs.split(1), targets.tolist(), seeds, strict=True):
        std = noise_std * float(crop.max() - crop.min())
        with _random_from(int(seed)):  # Captum draws from the global generators
            maps.append(
                GradientShap(network).attribute(crop, baselines=even, n_samples=samples, stdevs=std, target=target)
            )
    return torch.cat(maps).detach().sum(dim=1)


def layer_cam(network: Explainable, inputs: Tensor, baselines: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the feature maps of `network.cam_layer`, each cell weighted with its own gradient where that is positive.

    Grad-CAM weighs a whole feature map with one number, which only suits the last, coarsest layer; this one suits a
    layer whose cells are smaller than a nucleus. Between the cells' centres the map is linear, beyond the outermost
    ones constant.
    Sources: Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for localization"; Selvaraju
    et al. 2017, "Grad-CAM".
    """
    method = LayerGradientXActivation(network, network.cam_layer)
    cells = method.attribute(inputs.detach().requires_grad_(), target=targets).detach()
    cells = cells.clamp(min=0).sum(dim=1)  # activations are not negative: a product's sign is its gradient's
    rows, columns = (
        _interpolation(*_geometry(network, count, size), count, size).to(cells)
        for count, size in zip(cells.shape[1:], inputs.shape[2:], strict=True)
    )
    return rows @ cells @ columns.T


@torch.inference_mode()
def pixels_per_cell(network: Explainable, shape: tuple[int, int, int]) -> float:
    """Return the distance in pixels of neighbouring cells of `network.cam_layer`. shape: (H, W, C) of a crop."""
    height, width, channels = shape
    heights: list[int] = []
    hook = network.cam_layer.register_forward_hook(lambda layer, inputs, output: heights.append(output.shape[2]))
    network(torch.zeros(1, channels, height, width, device=next(network.parameters()).device))
    hook.remove()
    return _geometry(network, heights[0], height)[1]


def _geometry(network: Explainable, cells: int, size: int) -> tuple[float, float]:
    """Return the pixel at the centre of the first cell of `network.cam_layer`, and the pixels from cell to cell.

    From the kernels, strides and paddings up to that layer, in the order in which the network lists them; strided 1x1
    convolutions are shortcuts beside the way. Where that does not explain the number of cells: spread evenly.
    """
    first, step = 0.0, 1
    inside = set(network.cam_layer.modules())
    for module in network.network.modules():
        if module in inside:
            inside.discard(module)
        elif network.cam_layer not in inside:  # all of that layer is behind us
            break
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride, padding = (
                value if isinstance(value, int) else value[0]
                for value in (module.kernel_size, module.stride, module.padding)
            )
            if kernel > 1 or stride == 1:
                first += ((kernel - 1) / 2 - padding) * step
                step *= stride
    if abs(size / step - cells) >= 1:
        return (size / cells - 1) / 2, size / cells
    return first, step


def _interpolation(first: float, step: float, cells: int, size: int) -> Tensor:
    """Return the weights, float32 (size, cells), of linear interpolation between the cells' centres."""
    position = ((torch.arange(size) - first) / step).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)


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
