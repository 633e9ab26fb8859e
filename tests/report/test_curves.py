import numpy as np
import pandas as pd
import pytest
from drawn import assert_same_png

from nuclei.report.curves import (
    plot_abstention,
    plot_confusion,
    plot_curves,
    plot_fill_curves,
    plot_reliability,
    plot_robustness,
    plot_search,
)
from nuclei.task import CLASSES

LABELS = np.array([0, 0, 1, 2, 3, 3])
PREDICTED = {"cnn": np.array([0, 1, 1, 2, 3, 0]), "resnet": LABELS}
CURVES = {
    "cnn": pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train_loss": [1.0, 0.6, 0.3],
            "validation_loss": [0.9, 0.7, 0.8],
            "validation_accuracy": [0.5, 0.7, 0.6],
        }
    )
}
TRIALS = {
    name: pd.DataFrame(
        {"lr": [0.001, 0.001, 0.01], "validation_loss": [0.5, 0.8, 0.9], "rung": [1, 0, 0], "epochs": [3, 1, 1]}
    )
    for name in ("cnn", "resnet")
}
FILL_CURVES = pd.DataFrame(
    [
        {"Model": model, "Curve": curve, "Method": method, "Share": share, "Probability": 1 - share}
        for model in ("cnn", "resnet")
        for curve in ("deletion", "insertion")
        for method in ("random_order", "occlusion_20", "grad_cam")
        for share in (0, 0.5, 1)
    ]
)
BEFORE, AFTER = (
    pd.DataFrame({"confidence": [0.45, shift], "accuracy": [0.4, 0.8], "crops": [5, 45]}) for shift in (0.99, 0.85)
)
ABSTENTION = pd.DataFrame({"coverage": [0.5, 1.0], "threshold": [0.9, 0.3], "accuracy": [1.0, 0.8]})
ROBUSTNESS = pd.DataFrame(
    {
        "factor": [0.5, 1.0, 2.0],
        "haematoxylin_accuracy": [0.6, 0.9, 0.7],
        "haematoxylin_balanced_accuracy": [0.5, 0.8, 0.6],
        "eosin_accuracy": [0.8, 0.9, 0.85],
        "eosin_balanced_accuracy": [0.7, 0.8, 0.75],
    }
)
FIGURES = {
    "reliability": lambda: plot_reliability({"cnn": (BEFORE, AFTER), "resnet": (AFTER, AFTER)}),
    "abstention": lambda: plot_abstention({"cnn": ABSTENTION, "resnet": ABSTENTION}),
    "robustness": lambda: plot_robustness({"cnn": ROBUSTNESS, "resnet": ROBUSTNESS}),
    "confusion": lambda: plot_confusion(LABELS, PREDICTED, CLASSES),
    "curves": lambda: plot_curves(CURVES),
    "search": lambda: plot_search(TRIALS),
    "fill_curves": lambda: plot_fill_curves(FILL_CURVES),
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


def test_the_curves_mark_the_epoch_that_was_chosen():
    loss, accuracy = FIGURES["curves"]().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines["CNN, chosen"] == [[2, 0.7]]
    assert lines["CNN, training"] == [[1, 1.0], [2, 0.6], [3, 0.3]]
    assert lines["CNN, validation"] == [[1, 0.9], [2, 0.7], [3, 0.8]]
    assert accuracy.lines[0].get_ydata().tolist() == [0.5, 0.7, 0.6]


def test_the_search_figure_has_a_panel_a_model_and_a_mark_a_trial():
    axes = FIGURES["search"]().axes
    assert [ax.get_title() for ax in axes] == ["CNN", "ResNet18"]
    first, second = axes[0].collections  # the rungs
    assert first.get_offsets().tolist() == [[0.001, 0.8], [0.01, 0.9]]
    assert second.get_offsets().tolist() == [[0.001, 0.5]]
    assert second.get_sizes()[0] > first.get_sizes()[0]
    assert axes[0].get_xscale() == "log"


def test_the_fill_curves_show_each_method_against_random_orders():
    axes = FIGURES["fill_curves"]().axes
    assert [ax.get_title() for ax in axes] == [
        "CNN: deletion",
        "CNN: insertion",
        "ResNet18: deletion",
        "ResNet18: insertion",
    ]
    for ax in axes:
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines) == ["random order", "occlusion 20", "Grad-CAM"]
        assert lines["random order"].get_linestyle() == "--"
        assert len({tuple(np.ravel(line.get_color())) for line in ax.lines}) == 3
        assert lines["Grad-CAM"].get_xydata().tolist() == [[0, 1], [0.5, 0.5], [1, 0]]


def test_the_reliability_figure_shows_both_curves_and_the_ideal():
    ax, _ = FIGURES["reliability"]().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["as sure as right"] == [[0, 0], [1, 1]]
    assert lines["before scaling"] == [[0.45, 0.4], [0.99, 0.8]]
    assert lines["after scaling"] == [[0.45, 0.4], [0.85, 0.8]]
    sizes = ax.collections[0].get_sizes()
    assert sizes[1] > sizes[0]  # more crops


def test_the_robustness_figure_has_a_panel_a_stain_and_a_tick_a_factor():
    axes = FIGURES["robustness"]().axes
    assert [ax.get_xlabel() for ax in axes] == ["haematoxylin, times as strong", "eosin, times as strong"]
    for ax, accuracy in zip(axes, ([0.6, 0.9, 0.7], [0.8, 0.9, 0.85]), strict=True):
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.5", "1", "2"]
        assert ax.lines[0].get_ydata().tolist() == accuracy
