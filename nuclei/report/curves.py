"""Every figure. Each function returns a matplotlib Figure; `save_figure` writes it.

What is "by network" has its title as the key; colours go by the order.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from nuclei.figures import COLOURS, LINE_COLOURS
from nuclei.task import method_title

SEVERITIES = {  # what the severity of a corruption is
    "blur": "blur: standard deviation, pixels",
    "jpeg": "JPEG: quality",
    "gamma": "gamma",
    "resolution": "resolution: pixels times as large",
    "stain": "stain of another group: quantile",
    "haematoxylin": "haematoxylin, times as strong",
    "eosin": "eosin, times as strong",
}
PANELS = 4  # per row
NULL_STYLES = {"centre_first": "--", "smooth_random": ":"}  # orders that ask no network


def plot_confusion(labels: np.ndarray, predicted: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw two confusion matrices per network: crops, and shares of each true class.

    Args:
        labels: int (N,).
        predicted: By network, int (N,).
        classes: Names.
    """
    figure = Figure(figsize=(10, 4.6 * len(predicted)), layout="constrained")
    axes = figure.subplots(len(predicted), 2, squeeze=False)
    names = [name.replace(" ", "\n") for name in classes]
    for row, (title, values) in zip(axes, predicted.items(), strict=True):
        crops = np.bincount(labels * len(classes) + values, minlength=len(classes) ** 2).reshape(len(classes), -1)
        shares = crops / crops.sum(axis=1, keepdims=True).clip(min=1)
        for ax, matrix, form, text in (
            (row[0], crops, "d", "crops"),
            (row[1], shares, ".2f", "share of the true class"),
        ):
            _draw_matrix(ax, matrix, names, form)
            ax.set_title(f"{title}: {text}")
    return figure


def _draw_matrix(ax: Axes, matrix: np.ndarray, names: Sequence[str], form: str) -> None:
    """Draw a confusion matrix (K, K), each cell with its number, formatted by `form`."""
    ax.imshow(matrix, cmap="Blues")
    for (true, predicted), value in np.ndenumerate(matrix):
        colour = "white" if value > (matrix.min() + matrix.max()) / 2 else "#08306b"  # the ends of Blues
        ax.text(predicted, true, format(value, form), ha="center", va="center", color=colour)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="Predicted label", ylabel="True label")


def plot_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and held-out accuracy against the epoch: the mean over the folds, and each fold as a thin line.

    Args:
        curves: By network, one row per fold and epoch, as the stage `train` writes them.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for (title, table), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        folds = table[table["heldout_loss"].notna()]
        for ax, column, line, label in (
            (loss, "train_loss", ":", f"{title}, training"),
            (loss, "heldout_loss", "-", f"{title}, held-out folds"),
            (accuracy, "heldout_accuracy", "-", title),
        ):
            for _, rows in folds.groupby("fold"):
                ax.plot(rows["epoch"], rows[column], color=colour, linestyle=line, linewidth=0.6, alpha=0.4)
            mean = folds.groupby("epoch")[column].mean()
            ax.plot(mean.index, mean, color=colour, linestyle=line, label=label)
    loss.set(xlabel="epoch", ylabel="loss", yscale="log")  # early epochs may be far off
    accuracy.set(xlabel="epoch", ylabel="accuracy on the held-out folds")
    for ax in (loss, accuracy):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_reliability(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy against confidence, one panel per network, before and after temperature scaling.

    Args:
        curves: By network, tables of `reliability_curve` with a column calibrated (0, 1); the larger a mark, the more
            crops in its bin. The band is where perfect calibration would put the calibrated network.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for ax, (title, table), colour in zip(axes, curves.items(), cycle(COLOURS), strict=False):
        ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="perfect calibration")
        for calibrated, line, label in ((0, ":", "before scaling"), (1, "-", "after scaling")):
            rows = table[table["calibrated"] == calibrated]
            ax.plot(rows["confidence"], rows["accuracy"], color=colour, linestyle=line, label=label)
            size = 200 * rows["crops"] / rows["crops"].sum()
            ax.scatter(rows["confidence"], rows["accuracy"], s=5 + size, color=colour, alpha=0.5)
        ax.fill_between(rows["confidence"], rows["low"], rows["high"], color="grey", alpha=0.2, label="by chance")
        ax.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(0, 1.02), ylim=(0, 1.02))
        ax.legend(frameon=False, loc="lower right")  # where no crop should be: confident and incorrect
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_selective(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the accuracy on the most confident crops against their share.

    Args:
        curves: By network, tables of `accuracy_coverage_curve`.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for (title, table), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        ax.plot(table["selected_fraction"], table["accuracy"], color=colour, label=title)
    ax.set(xlabel="fraction of crops classified, the most confident first", ylabel="accuracy on these", xlim=(0, 1))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_robustness(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy (solid) and balanced accuracy (dotted) against severity, one panel per corruption.

    Args:
        tables: By network, of `score_under`, all of the same corruptions; thin lines: the crops as they are ("none").
    """
    names = [name for name in next(iter(tables.values()))["corruption"].unique() if name != "none"]
    rows = -(-len(names) // PANELS)
    figure = Figure(figsize=(3.2 * min(PANELS, len(names)), 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, min(PANELS, len(names)), sharey=True, squeeze=False).flat
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        for (title, table), colour in zip(tables.items(), cycle(COLOURS), strict=False):
            changed = table[table["corruption"] == name].sort_values("severity")
            clean = table[table["corruption"] == "none"]
            for metric, line in (("accuracy", "-"), ("balanced_accuracy", ":")):
                label = f"{title}, {metric.replace('_', ' ')}"
                style = {"color": colour, "linestyle": line, "marker": "."}
                ax.plot(changed["severity"], changed[metric], label=label, **style)
                for value in clean[metric]:
                    ax.axhline(value, color=colour, linestyle=line, linewidth=0.5)
        ax.set(xlabel=SEVERITIES[name], ylim=(0, 1.02))
        ax.set_xticks(changed["severity"], [f"{severity:g}" for severity in changed["severity"]])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower left", fontsize=7)
    return figure


def plot_search(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw inner loss against the learning rate: one panel per network, one mark per trial, larger in later rungs.

    Args:
        tables: By network, its trials, as the stage `tune` writes them.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        for rung, trials in table.groupby("rung"):
            label = f"{trials['steps'].iloc[0]} steps"
            ax.scatter(trials["lr"], trials["heldout_loss"], s=30 * (rung + 1), alpha=0.8, label=label)
        ax.set(xlabel="peak learning rate", ylabel="loss on the inner fold", title=title)
        ax.set(xscale="log", yscale="log")  # of a trial that diverges, the loss is hundreds of times that of others
        for axis, values in ((ax.xaxis, table["lr"]), (ax.yaxis, table["heldout_loss"])):
            wide = values.max() > 5 * values.min()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_deletion_insertion(curves: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw deletion and insertion curves: one row per model, one line per method, the null orders black.

    Args:
        curves: Of `score_models`.
        titles: Of the networks, by name.
    """
    models, panels = list(curves["Model"].unique()), list(curves["Curve"].unique())
    figure = Figure(figsize=(3.4 * len(panels), 3.4 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(panels), sharex=True, sharey=True, squeeze=False)
    for row, model in zip(axes, models, strict=True):
        for ax, curve in zip(row, panels, strict=True):
            panel = curves[(curves["Model"] == model) & (curves["Curve"] == curve)]
            for number, (method, line) in enumerate(panel.groupby("Method", sort=False)):
                colour, style = ("black", NULL_STYLES[method]) if method in NULL_STYLES else (None, "-")
                ax.plot(
                    line["Share"],
                    line["Probability"],
                    color=colour or LINE_COLOURS[number % len(LINE_COLOURS)],
                    linestyle=style,
                    label=method_title(method),
                )
            verb = "hidden" if curve.startswith("deletion") else "shown"
            ax.set(title=f"{titles[model]}: {curve}", xlabel=f"share {verb}, the strongest first")
            ax.title.set_fontsize(9)
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("probability of the predicted class")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
