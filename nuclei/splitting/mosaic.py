"""Mosaics: crops that share pixels, put back where they were cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nuclei.figures import FOLD_COLOURS
from nuclei.splitting.dihedral import turned, turned_shape
from nuclei.splitting.overlap import Pairs, groups, layout
from nuclei.splitting.split import SplitCrops


@dataclass(frozen=True)
class Mosaic:
    """M crops in one frame.

    Attributes:
        canvas: uint8 (H, W, 3), white where no crop lies.
        y: int64 (M,), pixels, of the crops' top left corners on the canvas.
        x: int64 (M,), likewise.
        d4: uint8 (M,), how they are turned.
    """

    canvas: np.ndarray
    y: np.ndarray
    x: np.ndarray
    d4: np.ndarray


def mosaic(
    crops: np.ndarray,
    pairs: Pairs,
    members: np.ndarray,
    colours: np.ndarray | None = None,
    longest: int = 2000,
) -> Mosaic:
    """Paint one group of crops in one frame.

    Args:
        crops: uint8 (N, H, W, C), C: 1 or 3.
        pairs: Of these crops, or of more.
        members: int (M,), crops that pairs connect with each other, M >= 1.
        colours: uint8 (M, 3), RGB in which each member's nucleus is marked (that of its fold, say); None: no marks.
        longest: Pixels; of a larger mosaic only every 2nd, 3rd, ... pixel is drawn (y and x count those).

    Raises:
        ValueError: The members are not connected: they have no common frame.
    """
    members = np.asarray(members)
    inner = pairs[np.isin(pairs.first, members) & np.isin(pairs.second, members)]
    order = np.argsort(members)
    first, second = (order[np.searchsorted(members, ends, sorter=order)] for ends in (inner.first, inner.second))
    shape = crops.shape[1:3]
    placed = layout(Pairs(first, second, inner.dy, inner.dx, inner.d4, inner.area), len(members), shape)
    if not len(members) or placed.group.any():
        raise ValueError(f"the {len(members)} members of a mosaic must be one group of overlapping crops")

    heights, widths = turned_shape(placed.d4, shape)
    y, x = placed.y - placed.y.min(), placed.x - placed.x.min()
    extent = int((y + heights).max()), int((x + widths).max())
    step = -(-max(extent) // longest)
    canvas = np.full((-(-extent[0] // step), -(-extent[1] // step), 3), 255, np.uint8)
    for i, member in enumerate(members):
        crop = turned(crops[member], placed.d4[i])
        thinned = crop[-y[i] % step :: step, -x[i] % step :: step]  # all crops on the same grid of pixels
        top, left = -(-y[i] // step), -(-x[i] // step)
        canvas[top : top + thinned.shape[0], left : left + thinned.shape[1]] = thinned
    y, x = -(-y // step), -(-x // step)
    if colours is not None:
        _mark(canvas, y, x, heights // step, widths // step, colours)
    return Mosaic(canvas, y, x, placed.d4)


def largest_mosaics(
    crops: np.ndarray, pairs: Pairs, colours: np.ndarray, count: int = 3, longest: int = 400
) -> list[np.ndarray]:
    """Paint the largest groups of more than one crop.

    Args:
        crops: uint8 (N, H, W, C).
        pairs: Of these crops.
        colours: uint8 (N, 3), RGB, of each crop.
        count: Groups at most.
        longest: As for `mosaic`.

    Returns:
        uint8 (H, W, 3) each, the group with the most crops first.
    """
    group = groups(pairs, len(crops))
    sizes = np.bincount(group)
    largest = [number for number in np.argsort(-sizes, kind="stable")[:count] if sizes[number] > 1]
    members = [np.flatnonzero(group == number) for number in largest]
    return [mosaic(crops, pairs, rows, colours[rows], longest).canvas for rows in members]


def _mark(
    canvas: np.ndarray, y: np.ndarray, x: np.ndarray, heights: np.ndarray, widths: np.ndarray, colours: np.ndarray
) -> None:
    """Draw a square with a white edge at the centre of each crop, where its nucleus is."""
    for top, left, height, width, colour in zip(y, x, heights, widths, colours, strict=True):
        half = max(1, min(height, width) // 20)
        centre = top + height // 2, left + width // 2
        for margin, ink in ((half + 1, 255), (half, colour)):
            canvas[tuple(slice(max(0, middle - margin), middle + margin + 1) for middle in centre)] = ink


def fold_colours(folds: np.ndarray) -> np.ndarray:
    """Return the colour, uint8 (N, 3), RGB, of each of the `folds`, int (N,)."""
    return FOLD_COLOURS[folds % len(FOLD_COLOURS)]


def plot_split(crops: np.ndarray, pairs: Pairs, split: SplitCrops, by: str) -> Figure:
    """Draw the largest groups of overlapping crops, coloured by fold, in a random split and in this one.

    Args:
        crops: uint8 (N, H, W, C), all labelled crops.
        pairs: Of these, numbered first, and the crops to predict.
        split: How they were split.
        by: What this split keeps together, for its title.
    """
    within = pairs[pairs.second < len(crops)]
    folds = split.table["Fold"].to_numpy()
    rows = {"a random split": split.random_folds, f"this split, by {by}": folds}
    mosaics = {title: largest_mosaics(crops, within, fold_colours(numbers)) for title, numbers in rows.items()}
    return plot_mosaics(mosaics, {int(fold): f"fold {fold}" for fold in np.unique(folds)})


def plot_mosaics(rows: Mapping[str, Sequence[np.ndarray]], folds: Mapping[int, str]) -> Figure:
    """Draw mosaics.

    Args:
        rows: By title, the mosaics of a row, uint8 (H, W, 3) each.
        folds: By number, the names of the folds, for the legend.
    """
    columns = max(max(map(len, rows.values())), 1)
    figure = Figure(figsize=(3.2 * columns, 3.4 * len(rows) + 0.7), layout="constrained")
    subfigures = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for subfigure, (title, canvases) in zip(subfigures, rows.items(), strict=True):
        subfigure.suptitle(title if canvases else f"{title}: no crop overlaps another one")
        axes = subfigure.subplots(1, columns, squeeze=False)[0]
        for ax in axes:
            ax.set_axis_off()
        for ax, canvas in zip(axes, canvases, strict=False):
            ax.imshow(canvas, interpolation="none")
    marks = [
        Line2D([], [], color=colour / 255, marker="s", linestyle="", label=name)
        for colour, name in zip(fold_colours(np.array(list(folds))), folds.values(), strict=True)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 3), frameon=False)
    return figure
