"""Mosaics: crops that share pixels, put back where they were cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nuclei.figures import FOLD_COLOURS
from nuclei.splitting.dihedral import turned
from nuclei.splitting.overlap import Pairs, groups, layout
from nuclei.splitting.split import SplitCrops


@dataclass(frozen=True)
class Mosaic:
    """canvas: uint8 (H, W, 3), white where no crop lies; y, x: int64 (M,), top left corners on it; turn: uint8 (M,)."""

    canvas: np.ndarray
    y: np.ndarray
    x: np.ndarray
    turn: np.ndarray


def mosaic(
    crops: np.ndarray,
    pairs: Pairs,
    members: np.ndarray,
    colours: np.ndarray | None = None,
    longest: int = 2000,
) -> Mosaic:
    """Paint one group of crops in one frame; with `colours`, each nucleus is marked in its crop's colour.

    crops: uint8 (N, H, W, C), C: 1 or 3; pairs: of these crops, or of more
    members: indices (M,) of crops that pairs connect with each other, M >= 1
    colours: uint8 (M, 3), RGB of each member (of its fold, say)
    longest: pixels; a larger mosaic is drawn with every 2nd, 3rd, ... pixel only (y and x count those)

    Raises ValueError where the members are not connected: they have no common frame.
    """
    members = np.asarray(members)
    among = np.isin(pairs.first, members) & np.isin(pairs.second, members)
    own = pairs[among]
    order = np.argsort(members)
    first, second = (order[np.searchsorted(members, ends, sorter=order)] for ends in (own.first, own.second))
    shape = crops.shape[1:3]
    placed = layout(Pairs(first, second, own.dy, own.dx, own.turn, own.area), len(members), shape)
    if not len(members) or placed.group.any():
        raise ValueError(f"the {len(members)} members of a mosaic must be one group of overlapping crops")

    swap = placed.turn & 4 > 0
    height, width = np.where(swap, shape[1], shape[0]), np.where(swap, shape[0], shape[1])
    y, x = placed.y - placed.y.min(), placed.x - placed.x.min()
    extent = int((y + height).max()), int((x + width).max())
    step = -(-max(extent) // longest)
    canvas = np.full((-(-extent[0] // step), -(-extent[1] // step), 3), 255, np.uint8)
    for i, member in enumerate(members):
        crop = turned(crops[member], placed.turn[i])
        part = crop[-y[i] % step :: step, -x[i] % step :: step]  # all crops on the same grid of pixels
        top, left = -(-y[i] // step), -(-x[i] // step)
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    y, x, height, width = -(-y // step), -(-x // step), height // step, width // step
    if colours is not None:
        _mark(canvas, y, x, height, width, colours)
    return Mosaic(canvas, y, x, placed.turn)


def largest_mosaics(
    crops: np.ndarray, pairs: Pairs, colours: np.ndarray, count: int = 3, longest: int = 400
) -> list[np.ndarray]:
    """Paint the `count` largest groups of more than one crop: uint8 (H, W, 3) each, the largest first.

    crops: uint8 (N, H, W, C); colours: uint8 (N, 3), of each crop; longest: as for `mosaic`
    """
    group = groups(pairs, len(crops))
    sizes = np.bincount(group)
    largest = [number for number in np.argsort(-sizes, kind="stable")[:count] if sizes[number] > 1]
    members = [np.flatnonzero(group == number) for number in largest]
    return [mosaic(crops, pairs, rows, colours[rows], longest).canvas for rows in members]


def _mark(canvas, y, x, height, width, colours) -> None:
    """Draw a square with a white edge at the centre of each crop, where its nucleus is."""
    for top, left, tall, wide, colour in zip(y, x, height, width, colours, strict=True):
        half = max(1, min(tall, wide) // 20)
        centre = top + tall // 2, left + wide // 2
        for reach, ink in ((half + 1, 255), (half, colour)):
            canvas[tuple(slice(max(0, at - reach), at + reach + 1) for at in centre)] = ink


def fold_colours(folds: np.ndarray) -> np.ndarray:
    """Return the colour of each crop's fold, uint8 (N, 3), RGB. folds: int (N,)."""
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
    """Draw mosaics, uint8 (H, W, 3), a row of them for each title in `rows`; `folds` names the folds."""
    columns = max(max(map(len, rows.values())), 1)
    figure = Figure(figsize=(3.2 * columns, 3.4 * len(rows) + 0.7), layout="constrained")
    for part, (title, canvases) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        part.suptitle(title if canvases else f"{title}: no crop overlaps another one")
        axes = part.subplots(1, columns, squeeze=False)[0]
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
