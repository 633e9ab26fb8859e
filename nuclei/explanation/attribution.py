"""What a network looks at, by Captum.

A map says of each pixel how much it raises the log-probability of a class (above zero) or lowers it (below): float32
(H, W). The log-probability, not the logit: a logit may rise for every class at once (Srinivas & Fleuret 2021,
"Rethinking the role of gradient-based attribution methods for model interpretability").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from captum.attr import GradientShap, IntegratedGradients, Occlusion
from torch import Tensor
from tqdm import tqdm

from nuclei.device import autocast
from nuclei.explanation.explainable import BASELINES, Explainable, explainable
from nuclei.explanation.layer_cam import layer_cam
from nuclei.models.checkpoint import Model
from nuclei.models.transforms import normalise
from nuclei.params import Explain

CROPS_PER_PASS = 8
IMAGES_PER_PASS = 256  # at most: crops times windows, or crops times steps


# Takes a network, inputs (N, C, H, W) normalised, their baselines (B, N, C, H, W), targets (N,) and a seed per crop;
# returns maps (N, H, W).
Method = Callable[[Explainable, Tensor, Tensor, Tensor, Sequence[int]], Tensor]


def methods(settings: Explain, precision: str, colours: np.ndarray) -> dict[str, Method]:
    """Return the methods that are asked for.

    Args:
        settings: Which methods, and how each is computed.
        precision: Of the occlusions' forward passes (see `autocast`); gradients are always float32.
        colours: float (B, C) in 0..255, that GradientSHAP compares crops with.

    Returns:
        The methods by name; every occlusion is named by its window: occlusion_20.
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
    """Return the maps of crops by each method.

    Args:
        model: The network to look into; it stays as it is.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        targets: int (N,) in 0..K-1, the classes to explain.
        seeds: One per crop, of all that is random.
        methods: By name, see `methods`.
        device: Where to compute.
        desc: Heads the progress bar; empty: none.

    Returns:
        By method, float32 (N, H, W).
    """
    network = explainable(model).to(device)
    batches: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    bar = tqdm(total=len(crops), desc=desc, unit="crop", leave=False, disable=None if desc else True)
    for start in range(0, len(crops), CROPS_PER_PASS):
        batch = slice(start, start + CROPS_PER_PASS)
        chosen = np.array(crops[batch])
        images = [chosen] + [baseline(chosen) for baseline in BASELINES.values()]
        inputs, *baselines = (normalise(torch.from_numpy(np.ascontiguousarray(crop)).to(device)) for crop in images)
        classes = torch.from_numpy(np.asarray(targets[batch], np.int64)).to(device)
        for name, method in methods.items():
            maps = method(network, inputs, torch.stack(baselines), classes, seeds[batch])
            batches[name].append(maps.float().cpu().numpy())
        bar.update(len(inputs))
    bar.close()
    return {name: np.concatenate(maps) for name, maps in batches.items()}


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

    Args:
        network: See `Method`, as for the next four.
        inputs: float32 (N, C, H, W).
        baselines: float32 (B, N, C, H, W).
        targets: int64 (N,).
        seeds: Not used.
        window: Pixels per side of the square.
        stride: Pixels from square to square.
        precision: See `autocast`.

    Returns:
        float32 (N, H, W).

    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".
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

    Args:
        network: See `Method`, as for the next four.
        inputs: float32 (N, C, H, W).
        baselines: float32 (B, N, C, H, W).
        targets: int64 (N,).
        seeds: N, of the noise.
        steps: Of each integral.
        samples: Noisy copies of the crop to average over; 0: the crop itself.
        noise_std: Standard deviation of the noise, as a share of the crop's range.

    Returns:
        float32 (N, H, W).

    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks"; Erion et al. 2021, "Improving
        performance of deep learning models with axiomatic attribution priors and expected gradients" (several
        baselines); Smilkov et al. 2017, "SmoothGrad" (noisy copies).
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

    Args:
        network: See `Method`, as for the next four.
        inputs: float32 (N, C, H, W).
        baselines: Not used.
        targets: int64 (N,).
        seeds: N, of colours and noise.
        colours: float (B, C) in 0..255.
        samples: Pairs of a colour and a copy.
        noise_std: As in `integrated_gradients`.

    Returns:
        float32 (N, H, W).

    Source: Lundberg & Lee 2017, "A unified approach to interpreting model predictions"; Erion et al. 2021 (as in
        `integrated_gradients`).
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
