"""Tiles of synthetic tissue and a small trained-looking model, for tests of what reads pictures and models."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from references import reference_of

from nuclei.data.synthetic.canvas import TILE
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.transforms import normalise


@cache
def tissue(rows: int = 1, columns: int = 2) -> tuple[np.ndarray, pd.DataFrame]:
    """Put tiles side by side: RGB, uint8 (H, W, 3), and their nuclei: y, x, label."""
    stain = draw_stain(np.random.default_rng(0))
    picture = np.empty((rows * TILE, columns * TILE, 3), np.uint8)
    tables = []
    for row in range(rows):
        for column in range(columns):
            rng = np.random.default_rng([0, row, column])
            tile, nuclei = draw_tile(rng, stain, cancer=(row + column) % 2 == 1)
            y, x = row * TILE, column * TILE
            picture[y : y + TILE, x : x + TILE] = tile
            tables.append(nuclei.assign(y=nuclei.y + y, x=nuclei.x + x))
    return picture, pd.concat(tables, ignore_index=True)


def write_tile(path: Path, **options: Any) -> None:
    """Save the tissue as a PNG, hardly compressed: many tests do; `options`: of Pillow."""
    Image.fromarray(tissue()[0]).save(path, compress_level=1, **options)


def some_crops(n: int, channels: int = 3) -> np.ndarray:
    """Cut crops, uint8 (n, 100, 100, channels), anywhere in the tissue."""
    pixels, _ = tissue()
    rng = np.random.default_rng(0)
    places = zip(rng.integers(0, 300, n), rng.integers(0, 700, n), strict=True)
    return np.stack([pixels[y : y + 100, x : x + 100, :channels] for y, x in places])


def write_model(path: Path, channels: int = 3, seed: int = 0, temperature: float = 0.3) -> Path:
    """Save a small network that never learned anything but answers with every class, and is sure of itself."""
    shape = SmallCNN(channels, (4, 4, 8, 8), (8, 8), 0.0)
    network = build(shape, seed)
    crops = normalise(torch.from_numpy(some_crops(32, channels)))
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0  # its statistics become those of these crops
        network.train()(crops)
        logits = network.eval()(crops)
        network[-1].weight /= logits.std(dim=0)[:, None]
        network[-1].bias.copy_((network[-1].bias - logits.mean(dim=0)) / logits.std(dim=0))
    calibration = Calibration(temperature, thresholds=(0.5, 0.3, 0.1), promised=(0.8, 0.9, 0.95))
    reference = reference_of(network, shape, some_crops(32, channels))
    save_model(path, Model("cnn", network, shape, calibration, calibration, reference))
    return path
