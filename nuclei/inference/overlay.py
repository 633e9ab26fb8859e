"""The image of a tile or slide with every nucleus marked in the colour of its class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from nuclei.data.geojson import class_colours
from nuclei.figures import DPI

NARROWEST = 1000  # pixels: room for the legend
TALLEST = 4000  # pixels, to which a narrow one is enlarged at most
LEGEND = 60  # pixels, with a line
LINE = 30  # pixels, of each further line
PER_LINE = 3  # entries: the longest ones fit into the narrowest canvas
KEY = 9  # points, of the rings in it


def draw_overlay(
    thumbnail: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    radius: float,
    classes: Sequence[str],
    unsure: np.ndarray,
    unlike: np.ndarray,
) -> Figure:
    """Draw a ring round each nucleus, pixel by pixel on the thumbnail, and a legend.

    The ring is dashed where the model is unsure, and crossed out where the nucleus is unlike anything in training.

    A narrow thumbnail is enlarged, or gets margins.

    Args:
        thumbnail: RGB, uint8 (H, W, 3).
        x: float (N,), in its pixels.
        y: float (N,), likewise.
        labels: int (N,).
        radius: Of the rings, pixels of the thumbnail.
        classes: The K names.
        unsure: bool (N,).
        unlike: bool (N,).
    """
    scale = max(min(NARROWEST / thumbnail.shape[1], TALLEST / thumbnail.shape[0]), 1)
    height, width = scale * thumbnail.shape[0], scale * thumbnail.shape[1]
    canvas = max(width, NARROWEST)
    columns = min(len(classes) + 2, PER_LINE)
    legend = LEGEND + LINE * (-(-(len(classes) + 2) // columns) - 1)
    figure = Figure(figsize=(canvas / DPI, (height + legend) / DPI))
    left, bottom = (canvas - width) / 2 / canvas, legend / (height + legend)
    ax = figure.add_axes((left, bottom, width / canvas, height / (height + legend)))
    ax.imshow(thumbnail, interpolation="none", extent=(0, thumbnail.shape[1], thumbnail.shape[0], 0))
    ax.set_axis_off()
    diameter = 2 * scale * radius * 72 / DPI  # points
    area = {"s": diameter**2, "linewidths": 1.2}
    for label, (name, rgb) in enumerate(zip(classes, class_colours(len(classes)), strict=True)):
        chosen, colour = labels == label, f"#{bytes(rgb).hex()}"
        for dashed, rows in (("-", chosen & ~unsure), ("--", chosen & unsure)):
            ax.scatter(x[rows], y[rows], facecolors="none", edgecolors=colour, linestyle=dashed, **area)
        rows = chosen & unlike
        ax.scatter(x[rows], y[rows], marker="x", color=colour, **area)
        ax.scatter([], [], facecolors="none", edgecolors=colour, label=f"{name}: {chosen.sum():,}", **area)
    ax.scatter([], [], facecolors="none", edgecolors="k", linestyle="--", label=f"unsure: {unsure.sum():,}", **area)
    ax.scatter([], [], marker="x", color="k", label=f"unlike anything in training: {unlike.sum():,}", **area)
    figure.legend(loc="lower center", ncols=columns, frameon=False, fontsize=9, markerscale=KEY / max(diameter, 1e-3))
    return figure
