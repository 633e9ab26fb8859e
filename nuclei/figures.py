"""What every figure shares: resolution, colours, how it is written, and galleries of crops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from nuclei.files import atomic_write

DPI = 144
# Okabe & Ito's: told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")

# Okabe & Ito's without black and yellow, RGB; fold k has the colour k modulo 6.
FOLD_COLOURS = np.array(
    [[213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]], np.uint8
)
LINE_COLOURS = FOLD_COLOURS / 255


def save_figure(figure: Figure, path: Path, colours: int | None = None) -> None:
    """Write a PNG: the same figure, the same bytes.

    Args:
        figure: What is written.
        path: Of the file.
        colours: Size of a palette, up to 256, which makes the file half as large; None: no palette.
    """
    with atomic_write(path) as temporary:
        kwargs = {"compress_level": 0} if colours else {}  # what is written once more need not be small before
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None}, pil_kwargs=kwargs)
        if colours:
            with Image.open(temporary) as image:
                flat = image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            flat.save(temporary, optimize=True)


def plot_gallery(crops: np.ndarray, captions: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Draw crops with a caption under each; the title stands alone where there are none.

    Args:
        crops: uint8 (N, H, W, C), C: 1 or 3.
        captions: N.
        title: Of the figure.
        columns: Crops per row.
    """
    rows = -(-len(crops) // columns)
    figure = Figure(figsize=(1.7 * columns, 0.6 + 2.4 * rows), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for i, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat if rows else ()):
        ax.set_axis_off()
        if i < len(crops):
            ax.imshow(crops[i].squeeze(), cmap="gray", vmin=0, vmax=255)
            style = {"ha": "center", "va": "top", "fontsize": 8, "parse_math": False}  # a file's name may hold a $
            ax.text(0.5, -0.05, captions[i], transform=ax.transAxes, **style)
    return figure
