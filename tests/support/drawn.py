"""What holds of every figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from nuclei.figures import DPI, save_figure


def assert_same_png(draw: Callable[[], Figure], folder: Path) -> None:
    """Save a figure that is drawn twice: the same bytes, a PNG of its size with something in it."""
    figure = draw()
    save_figure(figure, folder / "one.png")
    save_figure(draw(), folder / "two.png")
    assert (folder / "one.png").read_bytes() == (folder / "two.png").read_bytes()
    with Image.open(folder / "one.png") as image:
        assert image.format == "PNG"
        assert image.size == tuple((figure.get_size_inches() * DPI).astype(int))
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # something is drawn
        assert "Software" not in image.info  # the same bytes with the next matplotlib
