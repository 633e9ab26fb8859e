"""Every figure. Each function returns a matplotlib Figure; `save_figure` writes it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from sklearn.metrics import ConfusionMatrixDisplay

from nuclei.figures import COLOURS, LINE_COLOURS
from nuclei.task import TITLES, method_title


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
    """Draw the accuracy of the surest crops against their share; a table of `accuracy_coverage_curve` a model."""
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
