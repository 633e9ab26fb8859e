"""The figure of `robustness.score_under`."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from nuclei.plots import COLOURS
from nuclei.titles import TITLES

SEVERITIES = {  # what the severity of a corruption is
    "blur": "blur: standard deviation, pixels",
    "jpeg": "JPEG: quality",
    "gamma": "gamma",
    "resolution": "resolution: pixels times as large",
    "stain": "stain of another group: quantile",
    "haematoxylin": "haematoxylin, times as strong",
    "eosin": "eosin, times as strong",
}
COLUMNS = 4


def plot_corruptions(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy (solid) and balanced accuracy (dotted) against severity, a panel per corruption.

    tables: of `score_under`, by model, all of the same corruptions; thin lines: the crops as they are ("none")
    """
    names = [name for name in next(iter(tables.values()))["corruption"].unique() if name != "none"]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.2 * min(COLUMNS, len(names)), 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, min(COLUMNS, len(names)), sharey=True, squeeze=False).flat
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        for model, table in tables.items():
            part = table[table["corruption"] == name].sort_values("severity")
            clean = table[table["corruption"] == "none"]
            for metric, line in (("accuracy", "-"), ("balanced_accuracy", ":")):
                label = f"{TITLES[model]}, {metric.replace('_', ' ')}"
                ax.plot(part["severity"], part[metric], color=COLOURS[model], linestyle=line, marker=".", label=label)
                for value in clean[metric]:
                    ax.axhline(value, color=COLOURS[model], linestyle=line, linewidth=0.5)
        ax.set(xlabel=SEVERITIES[name], ylim=(0, 1.02))
        ax.set_xticks(part["severity"], [f"{severity:g}" for severity in part["severity"]])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower left", fontsize=7)
    return figure
