"""LayerCAM, each pixel of the feature map where it really looks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nuclei.errors import InputError
from nuclei.explanation.explainable import Explainable


def layer_cam(network: Explainable, inputs: Tensor, baselines: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the feature maps of `network.cam_layer`, weighted pixel by pixel with their gradient where it is positive.

    Grad-CAM weighs a whole feature map with one number, which only suits the last, coarsest layer; this one suits a
    layer whose feature map has pixels smaller than a nucleus. Between the centres of its pixels the result is linear,
    beyond the outermost ones constant.

    Args:
        network: See `nuclei.explanation.attribution.Method`, as for the other arguments.
        inputs: float32 (N, C, H, W).
        baselines: Not used.
        targets: int64 (N,).
        seeds: Not used.

    Returns:
        float32 (N, H, W), 0 or more.

    Source: Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for localization"; Selvaraju et
        al. 2017, "Grad-CAM".
    """
    activations: list[Tensor] = []
    hook = network.cam_layer.register_forward_hook(lambda layer, inputs, output: activations.append(output))
    with torch.enable_grad():
        chosen = network(inputs.detach().requires_grad_()).gather(1, targets[:, None]).sum()
    hook.remove()
    (feature_maps,) = activations
    if feature_maps.dim() != 4:
        raise InputError("explain.methods: layer_cam needs feature maps, which this backbone has none of: leave it out")
    (gradients,) = torch.autograd.grad(chosen, feature_maps)
    feature_map = (feature_maps * gradients.clamp(min=0)).sum(dim=1).clamp(min=0).detach()
    rows, columns = (
        _interpolation(network, count, size).to(feature_map)
        for count, size in zip(feature_map.shape[1:], inputs.shape[2:], strict=True)
    )
    return rows @ feature_map @ columns.T


@torch.inference_mode()
def pixels_per_cell(network: Explainable, shape: tuple[int, int, int]) -> float:
    """Return how many pixels of the crop lie between neighbouring pixels of the feature map of `network.cam_layer`.

    Args:
        network: Of which the layer is.
        shape: (H, W, C) of a crop.
    """
    height, width, channels = shape
    heights: list[int] = []
    hook = network.cam_layer.register_forward_hook(lambda layer, inputs, output: heights.append(output.shape[2]))
    network(torch.zeros(1, channels, height, width, device=next(network.parameters()).device))
    hook.remove()
    return _geometry(network, heights[0], height)[1]


def _geometry(network: Explainable, count: int, size: int) -> tuple[float, float]:
    """Return where in the crop, pixels, the first of `count` pixels of the feature map looks, and how far the next.

    From the kernels, strides and paddings up to that layer, in the order in which the network lists them; strided 1x1
    convolutions are shortcuts beside the way. Where that does not explain `count`: evenly over the crop's `size`.
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
                int(value if isinstance(value, int) else value[0])
                for value in (module.kernel_size, module.stride, module.padding)
            )
            if kernel > 1 or stride == 1:
                first += ((kernel - 1) / 2 - padding) * step
                step *= stride
    if abs(size / step - count) >= 1:
        return (size / count - 1) / 2, size / count
    return first, step


def _interpolation(network: Explainable, count: int, size: int) -> Tensor:
    """Return the weights, float32 (size, count), of linear interpolation between the feature map's pixels."""
    first, step = _geometry(network, count, size)
    position = ((torch.arange(size) - first) / step).clamp(0, count - 1)
    return (1 - (position[:, None] - torch.arange(count)).abs()).clamp(min=0)
