"""Galleries of heat maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from scipy.ndimage import gaussian_filter

from nuclei.task import TITLES, method_title

SIGNED = "PuOr_r"  # purple, white, orange: told apart by colour-blind readers
SMOOTHING = 2  # pixels: finer structure of the gradients does not survive a shift by one pixel


def plot_attributions(
    crops: np.ndarray,
    nuclei: np.ndarray,
    titles: Sequence[str],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    captions: Mapping[str, Sequence[str]],
) -> Figure:
    """Draw a row a crop: the crop with the outline of its nucleus, then each model's maps over its grey version.

    crops: uint8 (N, H, W, C); nuclei: bool (N, H, W); titles: N; maps: float (N, H, W) a model and method;
    captions: N a model, what it says of each crop. Purple speaks against that, orange for it, and the stronger it is,
    the more it covers. Each map is smoothed over SMOOTHING pixels and on its own scale, whose end is written under it.
    Without crops, a sentence.
    """
    count = len(crops)
    if not count:
        figure = Figure(figsize=(6, 0.6))
        figure.text(0.5, 0.5, "There is no such crop in the held-out fold.", ha="center", va="center")
        return figure
    widths = [1.0]
    for own in maps.values():
        widths += [0.15, *[1.0] * len(own)]  # a gap before each model
    width, height = 0.2 + 1.4 * sum(widths), 0.95 + 2.05 * count  # inches
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        count,
        len(widths),
        width_ratios=widths,
        wspace=0.06,
        hspace=0.55,
        left=0.1 / width,
        right=1 - 0.1 / width,
        bottom=1 / height,
        top=1 - 0.45 / height,
    )
    for row, crop in enumerate(crops):
        ax = _panel(figure, grid[row, 0], crop.squeeze(), titles[row])
        ax.contour(nuclei[row], levels=[0.5], colors="black", linewidths=1, linestyles=":")
        column = 1
        for model, own in maps.items():
            for place, (method, values) in enumerate(own.items(), start=1):
                title = f"{TITLES[model]}\n{captions[model][row]}" if place == 1 else ""
                ax = _panel(figure, grid[row, column + place], crop.mean(axis=2), title)
                smooth = gaussian_filter(values[row], SMOOTHING)
                reach = np.abs(smooth).max()
                heat = smooth / max(reach, 1e-12)
                ax.imshow(heat, cmap=SIGNED, vmin=-1, vmax=1, alpha=0.9 * np.abs(heat))
                ax.set_xlabel(f"{method_title(method)}\n±{reach:.2g}", fontsize=8, labelpad=2)
            column += 1 + len(own)
    bar = figure.add_axes((0.5 - 1.5 / width, 0.35 / height, 3 / width, 0.12 / height))
    figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), cax=bar, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_xticklabels(["against the predicted class", "no effect", "for it"], fontsize=9)
    return figure


def _panel(figure: Figure, place: SubplotSpec, image: np.ndarray, title: str) -> Axes:
    ax = figure.add_subplot(place, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(title, fontsize=9, loc="left", pad=3, parse_math=False)  # a file's name may hold a $
    return ax
