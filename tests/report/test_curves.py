import numpy as np
import pandas as pd
import pytest
from drawn import assert_same_png

from nuclei.report.curves import (
    SEVERITIES,
    plot_confusion,
    plot_curves,
    plot_deletion_insertion,
    plot_reliability,
    plot_robustness,
    plot_search,
    plot_selective,
)
from nuclei.task import CLASSES

LABELS = np.array([0, 0, 1, 2, 3, 3])
PREDICTED = {"CNN": np.array([0, 1, 1, 2, 3, 0]), "ResNet18": LABELS}
CURVES = {
    "CNN": pd.DataFrame(
        [
            *(
                {"fold": "0", "epoch": n, "train_loss": 1 / n, "heldout_loss": 0.9, "heldout_accuracy": 0.5}
                for n in (1, 2)
            ),
            *(
                {"fold": "1", "epoch": n, "train_loss": 3 / n, "heldout_loss": 0.7, "heldout_accuracy": 0.7}
                for n in (1, 2)
            ),
            *({"fold": "all", "epoch": n, "train_loss": 9.0} for n in (1, 2)),
        ]
    )
}
TRIALS = {
    name: pd.DataFrame(
        {"lr": [0.001, 0.001, 0.01], "heldout_loss": [0.5, 0.8, 0.9], "rung": [1, 0, 0], "steps": [30, 10, 10]}
    )
    for name in ("CNN", "ResNet18")
}
DELETION_INSERTION = pd.DataFrame(
    [
        {"Model": model, "Curve": curve, "Method": method, "Share": share, "Probability": 1 - share}
        for model in ("CNN", "ResNet18")
        for curve in ("deletion, mean colour", "insertion, mean colour")
        for method in ("centre_first", "smooth_random", "occlusion_28", "layer_cam")
        for share in (0, 0.5, 1)
    ]
)
RELIABILITY = pd.DataFrame(
    {
        "confidence": [0.45, 0.85, 0.45, 0.99],
        "accuracy": [0.4, 0.8, 0.4, 0.8],
        "crops": [5, 45, 5, 45],
        "low": [0.2, 0.7, 0.2, 0.9],
        "high": [0.6, 0.95, 0.6, 1.0],
        "calibrated": [1, 1, 0, 0],
    }
)
SELECTIVE = pd.DataFrame({"selected_fraction": [0.5, 1.0], "threshold": [0.9, 0.3], "accuracy": [1.0, 0.8]})
CORRUPTIONS = ["none", "haematoxylin", "haematoxylin", "eosin", "eosin", "blur"]
ROBUSTNESS = pd.DataFrame(
    {
        "corruption": CORRUPTIONS,
        "severity": [0.0, 2.0, 0.5, 0.5, 2.0, 2.0],
        "accuracy": [0.9, 0.7, 0.6, 0.8, 0.85, 0.5],
        "balanced_accuracy": [0.8, 0.6, 0.5, 0.7, 0.75, 0.4],
    }
)
FIGURES = {
    "reliability": lambda: plot_reliability({"CNN": RELIABILITY, "ResNet18": RELIABILITY}),
    "selective": lambda: plot_selective({"CNN": SELECTIVE, "ResNet18": SELECTIVE}),
    "robustness": lambda: plot_robustness({"CNN": ROBUSTNESS, "ResNet18": ROBUSTNESS}),
    "confusion": lambda: plot_confusion(LABELS, PREDICTED, CLASSES),
    "curves": lambda: plot_curves(CURVES),
    "search": lambda: plot_search(TRIALS),
    "deletion_insertion": lambda: plot_deletion_insertion(DELETION_INSERTION, {"CNN": "CNN", "ResNet18": "ResNet18"}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_png_every_time(name, tmp_path):
    assert_same_png(FIGURES[name], tmp_path)


def test_the_confusion_figure_counts_and_normalises_by_the_true_class():
    axes = FIGURES["confusion"]().axes
    assert [ax.get_title() for ax in axes] == [
        "CNN: crops",
        "CNN: share of the true class",
        "ResNet18: crops",
        "ResNet18: share of the true class",
    ]
    counts, shares = ([text.get_text() for text in ax.texts] for ax in axes[:2])
    assert counts == [*"1100", *"0100", *"0010", *"1001"]
    assert shares[:4] == ["0.50", "0.50", "0.00", "0.00"] and shares[-1] == "0.50"
    assert [label.get_text().replace("\n", " ") for label in axes[0].get_yticklabels()] == list(CLASSES)


def test_the_curves_are_the_mean_over_the_folds_with_each_fold_as_a_thin_line():
    """The network of all crops, which has no held-out fold, is not drawn."""
    loss, accuracy = FIGURES["curves"]().axes
    means = {
        line.get_label(): line.get_xydata().tolist() for line in loss.lines if not line.get_label().startswith("_")
    }
    assert means == {"CNN, training": [[1, 2.0], [2, 1.0]], "CNN, held-out folds": [[1, 0.8], [2, 0.8]]}
    folds = [line.get_ydata().tolist() for line in loss.lines if line.get_label().startswith("_")]
    assert folds == [[1.0, 0.5], [3.0, 1.5], [0.9, 0.9], [0.7, 0.7]]
    (mean,) = (line for line in accuracy.lines if line.get_label() == "CNN")
    assert mean.get_ydata().tolist() == pytest.approx([0.6, 0.6])
    assert all(line.get_linewidth() < mean.get_linewidth() for line in accuracy.lines if line is not mean)


def test_the_search_figure_has_a_panel_per_model_and_a_mark_per_trial():
    axes = FIGURES["search"]().axes
    assert [ax.get_title() for ax in axes] == ["CNN", "ResNet18"]
    first, second = axes[0].collections  # the rungs
    assert first.get_offsets().tolist() == [[0.001, 0.8], [0.01, 0.9]]
    assert second.get_offsets().tolist() == [[0.001, 0.5]]
    assert second.get_sizes()[0] > first.get_sizes()[0]
    assert axes[0].get_xscale() == "log"
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["10 steps", "30 steps"]


def test_a_trial_that_diverged_leaves_the_others_apart():
    losses = [1.3, 2.6, 300.0]
    figure = plot_search({name: table.assign(heldout_loss=losses) for name, table in TRIALS.items()})
    figure.draw_without_rendering()
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 3
        first, second, _ = (ax.transAxes.inverted().transform(ax.transData.transform((0.001, y)))[1] for y in losses)
        assert second - first > 0.1  # of the axis


def test_the_deletion_and_insertion_curves_show_each_method_against_the_null_orders():
    figure = FIGURES["deletion_insertion"]()
    assert [ax.get_title() for ax in figure.axes] == [
        "CNN: deletion, mean colour",
        "CNN: insertion, mean colour",
        "ResNet18: deletion, mean colour",
        "ResNet18: insertion, mean colour",
    ]
    for ax, verb in zip(figure.axes, ("hidden", "shown") * 2, strict=True):
        assert ax.get_xlabel() == f"share {verb}, the strongest first"
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines) == ["centre first", "smooth random", "occlusion 28", "LayerCAM"]
        assert [line.get_linestyle() for line in lines.values()] == ["--", ":", "-", "-"]
        assert [line.get_color() for line in ax.lines[:2]] == ["black", "black"]
        assert len({tuple(np.ravel(line.get_color())) for line in ax.lines}) == 3
        assert lines["LayerCAM"].get_xydata().tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_the_reliability_figure_shows_both_curves_the_ideal_and_what_chance_gives():
    ax, _ = FIGURES["reliability"]().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["perfect calibration"] == [[0, 0], [1, 1]]
    assert lines["before scaling"] == [[0.45, 0.4], [0.99, 0.8]]
    assert lines["after scaling"] == [[0.45, 0.4], [0.85, 0.8]]
    sizes = ax.collections[0].get_sizes()
    assert sizes[1] > sizes[0]  # more crops
    (band,) = (part for part in ax.collections if part.get_label() == "by chance")
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(0.45, 0.2), (0.45, 0.6), (0.85, 0.7), (0.85, 0.95)} <= corners  # of the curve after scaling


def test_the_selective_figure_shows_the_accuracy_on_the_most_confident_crops():
    (ax,) = FIGURES["selective"]().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {name: [[0.5, 1.0], [1.0, 0.8]] for name in ("CNN", "ResNet18")}


def test_the_robustness_figure_has_a_panel_per_corruption_and_a_tick_per_severity():
    axes = FIGURES["robustness"]().axes
    assert [ax.get_xlabel() for ax in axes] == [SEVERITIES[name] for name in ("haematoxylin", "eosin", "blur")]
    accuracies = [0.6, 0.7], [0.8, 0.85], [0.5]  # by rising severity
    for ax, ticks, accuracy in zip(axes, (["0.5", "2"], ["0.5", "2"], ["2"]), accuracies, strict=True):
        assert [label.get_text() for label in ax.get_xticklabels()] == ticks
        assert ax.lines[0].get_ydata().tolist() == accuracy
        assert ax.lines[1].get_ydata() == pytest.approx([0.9, 0.9])  # as the crops are
        assert ax.lines[0].get_linestyle() == "-" and ax.lines[2].get_linestyle() == ":"
