import numpy as np
import pytest
from drawn import assert_same_png

from nuclei.explanation.gallery import plot_attributions
from nuclei.figures import plot_gallery, save_figure

CROPS = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3)).astype(np.uint8)
NUCLEI = np.zeros((2, 10, 10), bool)
NUCLEI[:, 3:7, 3:7] = True
MAPS = {
    "CNN": {"occlusion_20": np.linspace(-1, 3, 200).reshape(2, 10, 10), "layer_cam": -np.ones((2, 10, 10))},
    "ResNet18": {"occlusion_20": np.zeros((2, 10, 10))},
}
CAPTIONS = {"CNN": ["muscle 0.9", "muscle 0.8"], "ResNet18": ["immune 0.7", "immune 0.6"]}
FIGURES = {
    "attributions": lambda: plot_attributions(CROPS, NUCLEI, ["one", "two"], MAPS, CAPTIONS),
    "grey_attributions": lambda: plot_attributions(CROPS[..., :1], NUCLEI, ["one", "two"], MAPS, CAPTIONS),
    "no_attributions": lambda: plot_attributions(CROPS[:0], NUCLEI[:0], [], MAPS, CAPTIONS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_png_every_time(name, tmp_path):
    assert_same_png(FIGURES[name], tmp_path)


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


def test_a_name_with_dollars_is_no_mathematics(tmp_path):
    names = ["$a^b^c$.png: muscle", "two"]
    attributions = plot_attributions(CROPS, NUCLEI, names, MAPS, CAPTIONS)
    for figure in (attributions, plot_gallery(CROPS, names, "title")):
        save_figure(figure, tmp_path / "figure.png")  # fails where it is drawn as mathematics
    assert attributions.axes[0].get_title(loc="left") == names[0]
