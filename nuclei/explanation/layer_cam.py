"""LayerCAM, placed where the cells of the layer really look."""

from collections.abc import Sequence

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from nuclei.explanation.explainable import Explainable


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
