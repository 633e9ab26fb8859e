"""Every figure. Each function returns a matplotlib Figure; `save_figure` writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import ConfusionMatrixDisplay

from nuclei.files import atomic_write
from nuclei.titles import TITLES, method_title

DPI = 144
COLOURS = {"cnn": "#0072B2", "resnet": "#D55E00"}  # Okabe & Ito's: told apart by colour-blind readers

SIGNED = "PuOr_r"  # purple, white, orange: told apart by colour-blind readers
SMOOTHING = 2  # pixels: finer structure of the gradients does not survive a shift by one pixel

# Okabe & Ito's without black and yellow, RGB; fold k has the colour k modulo 6.
FOLD_COLOURS = np.array(
    [[213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]], np.uint8
)
LINE_COLOURS = FOLD_COLOURS / 255


def save_figure(figure: Figure, path: Path, colours: int | None = None) -> None:
    """Write a PNG: the same figure, the same bytes. With a palette of `colours`, it is half as large."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None})
        if colours:
            with Image.open(temporary) as image:
                flat = image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            flat.save(temporary, optimize=True)


def plot_confusion(labels: np.ndarray, predicted: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw two matrices a model: crops, and shares of each true class. labels and each of predicted: int (N,)."""
    figure = Figure(figsize=(10, 4.6 * len(predicted)), layout="constrained")
    axes = figure.subplots(len(predicted), 2, squeeze=False)
    names = [name.replace(" ", "\n") for name in classes]
    for row, (model, guess) in zip(axes, predicted.items(), strict=True):
        for ax, normalize, text in zip(row, (None, "true"), ("crops", "share of the true class"), strict=True):
            ConfusionMatrixDisplay.from_predictions(
                labels,
                guess,
                labels=range(len(classes)),
                display_labels=names,
                normalize=normalize,
                values_format=".2f" if normalize else "d",
                cmap="Blues",
                colorbar=False,
                ax=ax,
            )
            ax.set_title(f"{TITLES[model]}: {text}")
    return figure


def fold_colours(folds: np.ndarray) -> np.ndarray:
    """Return the colour of each crop's fold, uint8 (N, 3), RGB. folds: int (N,)."""
    return FOLD_COLOURS[folds % len(FOLD_COLOURS)]


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


def plot_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and validation accuracy against the epoch; `curves` holds a table of `fit`'s scores a model."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for model, table in curves.items():
        colour = COLOURS[model]
        loss.plot(table["epoch"], table["train_loss"], color=colour, linestyle=":", label=f"{TITLES[model]}, training")
        loss.plot(table["epoch"], table["validation_loss"], color=colour, label=f"{TITLES[model]}, validation")
        loss.plot(*_lowest(table), color=colour, marker="o", linestyle="", label=f"{TITLES[model]}, chosen")
        accuracy.plot(table["epoch"], table["validation_accuracy"], color=colour, label=TITLES[model])
    loss.set(xlabel="epoch", ylabel="loss", yscale="log")  # early epochs may be far off
    accuracy.set(xlabel="epoch", ylabel="validation accuracy")
    for ax in (loss, accuracy):
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _lowest(table: pd.DataFrame) -> tuple[float, float]:
    row = table.loc[table["validation_loss"].idxmin()]
    return row["epoch"], row["validation_loss"]


def plot_reliability(curves: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Draw accuracy against confidence, a panel a model; the two tables: before and after temperature scaling.

    The tables are those of `reliability_curve`; the larger a mark, the more crops in its bin.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for ax, (model, tables) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="as sure as right")
        for table, line, when in zip(tables, (":", "-"), ("before scaling", "after scaling"), strict=True):
            ax.plot(table["confidence"], table["accuracy"], color=COLOURS[model], linestyle=line, label=when)
            size = 200 * table["crops"] / table["crops"].sum()
            ax.scatter(table["confidence"], table["accuracy"], s=5 + size, color=COLOURS[model], alpha=0.5)
        ax.set(xlabel="confidence", ylabel="accuracy", title=TITLES[model], xlim=(0, 1.02), ylim=(0, 1.02))
        ax.legend(frameon=False, loc="lower right")  # where no crop should be: sure and wrong
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_abstention(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the accuracy of the surest crops against their share; a table of `abstention_curve` a model."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for model, table in curves.items():
        ax.plot(table["coverage"], table["accuracy"], color=COLOURS[model], label=TITLES[model])
    ax.set(xlabel="coverage: share of the crops answered, the surest first", ylabel="accuracy of those", xlim=(0, 1))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_robustness(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy (solid) and balanced accuracy (dotted) against a stain's strength, a panel a stain.

    tables: of `stain_shift`, one a model
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, stain in zip(figure.subplots(1, 2, sharey=True), ("haematoxylin", "eosin"), strict=True):
        for model, table in tables.items():
            for metric, line in (("accuracy", "-"), ("balanced_accuracy", ":")):
                label = f"{TITLES[model]}, {metric.replace('_', ' ')}"
                values = table[f"{stain}_{metric}"]
                ax.plot(table["factor"], values, color=COLOURS[model], linestyle=line, marker=".", label=label)
        ax.set(xlabel=f"{stain}, times as strong", xscale="log", ylim=(0, 1.02))
        ax.set_xticks(table["factor"], [f"{factor:g}" for factor in table["factor"]])
        ax.minorticks_off()  # of a logarithmic axis: they would lie between the factors
        ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return figure


def plot_gallery(crops: np.ndarray, captions: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Draw crops, uint8 (N, H, W, C), with a caption under each; the title stands alone where there are none."""
    rows = -(-len(crops) // columns)
    figure = Figure(figsize=(1.7 * columns, 0.6 + 2.4 * rows), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for place, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat if rows else ()):
        ax.set_axis_off()
        if place < len(crops):
            ax.imshow(crops[place].squeeze(), cmap="gray", vmin=0, vmax=255)
            style = {"ha": "center", "va": "top", "fontsize": 8, "parse_math": False}  # a file's name may hold a $
            ax.text(0.5, -0.05, captions[place], transform=ax.transAxes, **style)
    return figure


def plot_search(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw validation loss against the learning rate, a panel a model, a mark a trial, larger in later rungs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (model, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        for rung, some in table.groupby("rung"):
            label = f"epochs: {some['epochs'].iloc[0]}"
            ax.scatter(some["lr"], some["validation_loss"], s=30 * (rung + 1), alpha=0.8, label=label)
        ax.set(xscale="log", xlabel="peak learning rate", ylabel="validation loss", title=TITLES[model])
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


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


def plot_fill_curves(curves: pd.DataFrame) -> Figure:
    """Draw the deletion and insertion curves of `score_models`, a row a model, a line a method."""
    models = list(curves["Model"].unique())
    figure = Figure(figsize=(10, 3.6 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 2, sharex=True, sharey=True, squeeze=False)
    for row, model in zip(axes, models, strict=True):
        for ax, curve in zip(row, ("deletion", "insertion"), strict=True):
            some = curves[(curves["Model"] == model) & (curves["Curve"] == curve)]
            for number, (method, line) in enumerate(some.groupby("Method", sort=False)):
                chance = method == "random_order"
                ax.plot(
                    line["Share"],
                    line["Probability"],
                    color="black" if chance else LINE_COLOURS[(number - 1) % len(LINE_COLOURS)],
                    linestyle="--" if chance else "-",
                    label=method_title(method),
                )
            verb = {"deletion": "hidden", "insertion": "shown"}[curve]
            ax.set(title=f"{TITLES[model]}: {curve}", xlabel=f"share of the crop that is {verb}, the strongest first")
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("probability of the predicted class")
    axes[0, 1].legend(frameon=False, loc="lower right")
    return figure
