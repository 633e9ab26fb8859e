"""Draw a slide of any size: 16 drawn tiles, flipped and turned, side by side, with glass round them.

uv run python -m tools.slide slide.tif --side 20000       half a minute, 1 GB
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from nuclei.data.synthetic.canvas import TILE
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.task import MPP

DRAWN = 16
GLASS = 0.1  # of a side, on each side


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.slide", description=__doc__)
    parser.add_argument("path", type=Path, metavar="FILE", help="TIFF to be written")
    parser.add_argument("--side", type=int, default=20_000, metavar="N", help="pixels; default: %(default)s")
    args = parser.parse_args()
    write_slide(args.path, args.side)


def write_slide(path: Path, side: int) -> None:
    """Write a tiled TIFF that tells its resolution; `side` is rounded up to whole tiles."""
    across = -(-side // TILE)
    tifffile.imwrite(
        path,
        draw_tiles(across),
        shape=(across * TILE, across * TILE, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": 1},
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
    )


def draw_tiles(across: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    stain = draw_stain(rng)
    drawn = [draw_tile(rng, stain, cancer=number % 2 == 1)[0] for number in range(DRAWN)]
    glass = np.full((TILE, TILE, 3), stain.background.round().clip(0, 255), np.uint8)
    for row, column in np.ndindex(across, across):
        tile = np.rot90(drawn[rng.integers(DRAWN)], rng.integers(4))
        is_tissue = GLASS * across <= min(row, column) and max(row, column) < (1 - GLASS) * across
        yield np.ascontiguousarray(tile) if is_tissue else glass


if __name__ == "__main__":
    main()
