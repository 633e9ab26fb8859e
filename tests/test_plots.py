import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nuclei.classes import CLASSES
from nuclei.plots import (
    DPI,
    plot_abstention,
    plot_attributions,
    plot_confusion,
    plot_curves,
    plot_fill_curves,
    plot_gallery,
    plot_mosaics,
    plot_reliability,
    plot_robustness,
    plot_search,
    save_figure,
)

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
CROPS = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3)).astype(np.uint8)
NUCLEI = np.zeros((2, 10, 10), bool)
NUCLEI[:, 3:7, 3:7] = True
MAPS = {
    "cnn": {"occlusion_20": np.linspace(-1, 3, 200).reshape(2, 10, 10), "layer_cam": -np.ones((2, 10, 10))},
    "resnet": {"occlusion_20": np.zeros((2, 10, 10))},
}
FILL_CURVES = pd.DataFrame(
    [
        {"Model": model, "Curve": curve, "Method": method, "Share": share, "Probability": 1 - share}
        for model in ("cnn", "resnet")
        for curve in ("deletion, blurred", "insertion, blurred")
        for method in ("centre_first", "smooth_random", "occlusion_20", "layer_cam")
        for share in (0, 0.5, 1)
    ]
)
CAPTIONS = {"cnn": ["muscle 0.9", "muscle 0.8"], "resnet": ["immune 0.7", "immune 0.6"]}
MOSAICS = {"random": [CROPS[0], CROPS[1]], "by overlap": []}
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
    "gallery": lambda: plot_gallery(CROPS, ["one", "two"], "two labels to review", columns=3),
    "empty_gallery": lambda: plot_gallery(CROPS[:0], [], "no label to review"),
    "mosaics": lambda: plot_mosaics(MOSAICS, {0: "held out", 1: "validation"}),
    "confusion": lambda: plot_confusion(LABELS, PREDICTED, CLASSES),
    "curves": lambda: plot_curves(CURVES),
    "search": lambda: plot_search(TRIALS),
    "attributions": lambda: plot_attributions(CROPS, NUCLEI, ["one", "two"], MAPS, CAPTIONS),
    "grey_attributions": lambda: plot_attributions(CROPS[..., :1], NUCLEI, ["one", "two"], MAPS, CAPTIONS),
    "no_attributions": lambda: plot_attributions(CROPS[:0], NUCLEI[:0], [], MAPS, CAPTIONS),
    "fill_curves": lambda: plot_fill_curves(FILL_CURVES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_png_every_time(name, tmp_path):
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        save_figure(FIGURES[name](), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert image.format == "PNG"
        assert image.size == tuple((FIGURES[name]().get_size_inches() * DPI).astype(int))
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # something is drawn
        assert "Software" not in image.info  # the same bytes with the next matplotlib


def test_mosaics_without_a_group_say_so_and_name_every_fold():
    figure = FIGURES["mosaics"]()
    assert [part.get_suptitle() for part in figure.subfigs] == ["random", "by overlap: no crop overlaps another one"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["held out", "validation"]


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


def test_attributions_have_a_row_a_crop_and_both_models_in_it():
    figure = FIGURES["attributions"]()
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 2 * (1 + 2 + 1)
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles[:4] == ["one", "CNN\nmuscle 0.9", "", "ResNet18\nimmune 0.7"]
    assert titles[4:] == ["two", "CNN\nmuscle 0.8", "", "ResNet18\nimmune 0.6"]
    labels = [ax.get_xlabel() for ax in panels[4:]]
    assert labels[1].startswith("occlusion 20\n±2.") and labels[2:] == ["LayerCAM\n±1", "occlusion 20\n±0"]
    assert np.array_equal(panels[4].images[0].get_array(), CROPS[1])
    assert np.array_equal(panels[5].images[0].get_array(), CROPS[1].mean(axis=2))
    tops = [ax.get_position().y1 for ax in panels]
    assert len({round(top, 6) for top in tops[:4]}) == 1 and tops[4] < tops[0]


def test_heat_shows_its_sign_in_colour_and_its_strength_in_cover():
    heat = {
        ax.get_xlabel().split("\n")[0]: ax.images[-1] for ax in FIGURES["attributions"]().axes if len(ax.images) > 1
    }
    against, nothing = heat["LayerCAM"], heat["occlusion 20"]
    assert (against.norm.vmin, against.norm.vmax) == (-1, 1)
    assert np.allclose(against.get_array(), -1) and np.allclose(against.get_alpha(), 0.9)
    assert (nothing.get_alpha() == 0).all()  # where a map is zero, the crop is seen as it is


def test_a_gallery_without_crops_is_a_sentence():
    figure = FIGURES["no_attributions"]()
    assert [text.get_text() for text in figure.texts] == ["There is no such crop in the held-out fold."]


def test_a_palette_makes_a_picture_smaller_and_changes_it_little(tmp_path):
    rng = np.random.default_rng(0)
    crops = rng.integers(100, 200, (1, 10, 10, 3)).repeat(10, axis=1).repeat(10, axis=2).astype(np.uint8)
    maps = {"cnn": {"occlusion_20": rng.normal(size=(1, 100, 100))}}
    for name, colours in (("full", None), ("palette", 256)):
        figure = plot_attributions(crops, np.zeros((1, 100, 100), bool), ["one"], maps, CAPTIONS)
        save_figure(figure, tmp_path / f"{name}.png", colours)
    full, palette = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("full", "palette")
    )
    assert (tmp_path / "palette.png").stat().st_size < 0.6 * (tmp_path / "full.png").stat().st_size
    assert np.abs(full - palette).mean() < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.png", "palette.png"]


def test_the_fill_curves_show_each_method_against_orders_that_ask_no_network():
    axes = FIGURES["fill_curves"]().axes
    assert [ax.get_title() for ax in axes] == [
        "CNN: deletion, blurred",
        "CNN: insertion, blurred",
        "ResNet18: deletion, blurred",
        "ResNet18: insertion, blurred",
    ]
    for ax in axes:
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines) == ["centre first", "smooth random", "occlusion 20", "LayerCAM"]
        assert [line.get_linestyle() for line in ax.lines] == ["--", ":", "-", "-"]
        assert len({tuple(np.ravel(line.get_color())) for line in ax.lines}) == 3
        assert lines["LayerCAM"].get_xydata().tolist() == [[0, 1], [0.5, 0.5], [1, 0]]


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


def test_a_gallery_shows_each_crop_with_its_caption():
    figure = FIGURES["gallery"]()
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.texts[0].get_text() for ax in panels] == ["one", "two"]
    assert np.array_equal(panels[1].images[0].get_array(), CROPS[1])
    empty = FIGURES["empty_gallery"]()
    assert empty.get_suptitle() == "no label to review" and not empty.axes


def test_a_name_with_dollars_is_no_mathematics(tmp_path):
    names = ["$a^b^c$.png: muscle", "two"]
    attributions = plot_attributions(CROPS, NUCLEI, names, MAPS, CAPTIONS)
    for figure in (attributions, plot_gallery(CROPS, names, "title")):
        save_figure(figure, tmp_path / "figure.png")  # fails where it is drawn as mathematics
    assert attributions.axes[0].get_title(loc="left") == names[0]


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = FIGURES["curves"]()
    figure.axes[0].set_xlabel("$\\nonsense{$")  # fails when it is drawn
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
