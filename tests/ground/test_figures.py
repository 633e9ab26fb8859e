import os
import subprocess
import sys

import numpy as np
import pytest
from drawn import assert_same_png
from matplotlib.figure import Figure
from PIL import Image

from nuclei.explanation.gallery import plot_attributions
from nuclei.figures import plot_gallery, save_figure
from tools.clone import ROOT

CROPS = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3)).astype(np.uint8)
CAPTIONS = {"CNN": ["muscle 0.9", "muscle 0.8"], "ResNet18": ["immune 0.7", "immune 0.6"]}
FIGURES = {
    "gallery": lambda: plot_gallery(CROPS, ["one", "two"], "two labels to review", columns=3),
    "empty_gallery": lambda: plot_gallery(CROPS[:0], [], "no label to review"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_png_every_time(name, tmp_path):
    assert_same_png(FIGURES[name], tmp_path)


def test_a_notebooks_backend_and_a_users_settings_make_no_difference(tmp_path):
    rc = tmp_path / "matplotlibrc"  # also in the working folder
    rc.write_text("text.usetex: True\nfigure.facecolor: red\nsavefig.dpi: 30\n")
    code = """
import stages
import sys
from pathlib import Path
import numpy as np
from nuclei.figures import plot_gallery, save_figure
save_figure(plot_gallery(np.zeros((1, 10, 10, 3), np.uint8), ["muscle"], "title"), Path(sys.argv[1]))
"""
    settings = {"plain": {}, "user": {"MPLBACKEND": "module://not_installed.backend", "MATPLOTLIBRC": str(rc)}}
    for name, changes in settings.items():
        place = {"cwd": tmp_path if changes else None, "env": os.environ | {"PYTHONPATH": str(ROOT)} | changes}
        subprocess.run([sys.executable, "-c", code, tmp_path / f"{name}.png"], check=True, **place)
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "user.png").read_bytes()


def test_a_palette_makes_a_picture_smaller_and_changes_it_little(tmp_path):
    rng = np.random.default_rng(0)
    crops = rng.integers(100, 200, (1, 10, 10, 3)).repeat(10, axis=1).repeat(10, axis=2).astype(np.uint8)
    maps = {"CNN": {"occlusion_20": rng.normal(size=(1, 100, 100))}}
    for name, colours in (("full", None), ("palette", 256)):
        figure = plot_attributions(crops, np.zeros((1, 100, 100), bool), ["one"], maps, CAPTIONS)
        save_figure(figure, tmp_path / f"{name}.png", colours)
    full, palette = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("full", "palette")
    )
    assert (tmp_path / "palette.png").stat().st_size < 0.6 * (tmp_path / "full.png").stat().st_size
    assert np.abs(full - palette).mean() < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.png", "palette.png"]


def test_a_gallery_shows_each_crop_with_its_caption():
    figure = FIGURES["gallery"]()
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.texts[0].get_text() for ax in panels] == ["one", "two"]
    assert np.array_equal(panels[1].images[0].get_array(), CROPS[1])
    empty = FIGURES["empty_gallery"]()
    assert empty.get_suptitle() == "no label to review" and not empty.axes


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = Figure()
    figure.subplots().set_xlabel("$\\nonsense{$")  # fails when it is drawn
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
