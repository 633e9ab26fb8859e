"""Galleries of heat maps: a few crops of each class, and the worst errors."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from scipy.ndimage import gaussian_filter

from nuclei.explanation.explain import Explanation
from nuclei.task import method_title

SIGNED = "PuOr_r"  # purple, white, orange: told apart by colour-blind readers
SMOOTHING = 2  # pixels: finer structure of the gradients does not survive a shift by one pixel


def draw_galleries(
    explanation: Explanation, classes: Sequence[str], networks: Mapping[str, str], per_class: int
) -> Iterator[tuple[str, Figure]]:
    """Draw a gallery of each class, and one of the worst errors.

    Args:
        explanation: Of `select_and_explain`.
        classes: The K names.
        networks: Their titles.
        per_class: Crops in the gallery of a class, at most: the first that were drawn of it.

    Yields:
        A name, fit for a file, and the figure.
    """
    table, galleries = explanation.table, {}
    drawn = table.iloc[: explanation.examples.drawn]
    for label, name in enumerate(classes):
        galleries[name] = np.flatnonzero(drawn["Label"] == label)[:per_class]
    galleries["worst errors"] = explanation.examples.errors
    for number, (name, chosen) in enumerate(galleries.items()):
        titles = [f"{row.Filename}\ntrue: {classes[row.Label]}" for row in table.iloc[chosen].itertuples()]
        maps, captions = {}, {}
        for model, explained in explanation.attributions.items():
            maps[networks[model]] = {method: values[chosen] for method, values in explained.maps.items()}
            captions[networks[model]] = [
                f"{classes[row.argmax()]} {row.max():.0%}" for row in explained.probabilities[chosen]
            ]
        figure = plot_attributions(explanation.crops[chosen], explanation.nuclei[chosen], titles, maps, captions)
        yield f"{number:0{len(str(len(classes)))}}_{re.sub('[^A-Za-z0-9]+', '_', name)}", figure


def plot_attributions(
    crops: np.ndarray,
    nuclei: np.ndarray,
    titles: Sequence[str],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    captions: Mapping[str, Sequence[str]],
) -> Figure:
    """Draw one row per crop: the crop with the outline of its nucleus, then each model's maps over its grey version.

    Purple speaks against what the model says, orange for it, and the stronger it is, the more it covers. Each map is
    smoothed over SMOOTHING pixels; the end of its colour scale is written under it. Without crops, a sentence.

    Args:
        crops: uint8 (N, H, W, C).
        nuclei: bool (N, H, W).
        titles: N, of the crops.
        maps: By model and method, float (N, H, W).
        captions: By model, N: what it says of each crop as it is.
    """
    count = len(crops)
    if not count:
        figure = Figure(figsize=(6, 0.6))
        figure.text(0.5, 0.5, "There is no such crop in the held-out fold.", ha="center", va="center")
        return figure
    widths = [1.0]
    for by_method in maps.values():
        widths += [0.15, *[1.0] * len(by_method)]  # a gap before each model
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
        for model, by_method in maps.items():
            for i, (method, values) in enumerate(by_method.items()):
                title = f"{model}\n{captions[model][row]}" if i == 0 else ""
                ax = _panel(figure, grid[row, column + 1 + i], crop.mean(axis=2), title)
                smooth = gaussian_filter(values[row], SMOOTHING)
                largest = np.abs(smooth).max()
                heat = smooth / max(largest, 1e-12)
                ax.imshow(heat, cmap=SIGNED, vmin=-1, vmax=1, alpha=0.9 * np.abs(heat))
                ax.set_xlabel(f"{method_title(method)}\n±{largest:.2g}", fontsize=8, labelpad=2)
            column += 1 + len(by_method)
    bar = figure.add_axes((0.5 - 1.5 / width, 0.35 / height, 3 / width, 0.12 / height))
    figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), cax=bar, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_xticklabels(["against the class above the maps", "no effect", "for it"], fontsize=9)
    return figure


def _panel(figure: Figure, spec: SubplotSpec, image: np.ndarray, title: str) -> Axes:
    ax = figure.add_subplot(spec, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(title, fontsize=9, loc="left", pad=3, parse_math=False)  # a file's name may hold a $
    return ax
