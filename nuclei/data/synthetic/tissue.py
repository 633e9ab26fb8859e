"""Synthetic H&E tissue: stroma, muscle, glands, loose cells, stained and scanned."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from nuclei.data.synthetic.canvas import (
    TILE,
    Canvas,
    X,
    Y,
    blend,
    fibres,
    hexagonal_grid,
    ramp,
    smooth,
    spaced_row,
    turned,
    value_at,
)
from nuclei.data.synthetic.cells import FIBROBLAST, MUSCLE, epithelial, leukocyte, oval, paint, spindle

# Optical density of haematoxylin and of eosin in R, G, B.
RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
MACENKO = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])


@dataclass(frozen=True)
class Stain:
    """How one patient's slide was cut, stained and scanned."""

    vectors: np.ndarray  # (2, 3), unit rows: optical density of haematoxylin and eosin in R, G, B
    amounts: np.ndarray  # (2,), factors on the two concentrations
    background: np.ndarray  # (3,), RGB of bare glass, 0 to 255
    blur: float  # standard deviation, pixels
    noise: float  # standard deviation, grey levels


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a patient: stain vectors between two published pairs, amounts, brightness, sharpness, noise."""
    mix = rng.uniform((0.0, 0.1), (0.4, 0.6))[:, None]
    vectors = (1 - mix) * RUIFROK + mix * MACENKO + rng.normal(0, 0.015, (2, 3))
    return Stain(
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        amounts=rng.uniform(0.85, 1.18, 2),
        background=rng.uniform(238, 252) + rng.normal(0, 2, 3),
        blur=rng.uniform(0.5, 1.0),
        noise=rng.uniform(1.5, 3.5),
    )


def draw_tile(rng: np.random.Generator, stain: Stain, cancer: bool) -> tuple[np.ndarray, pd.DataFrame]:
    """Draw one tile of tissue with normal or with cancer epithelium.

    Returns the tile, uint8, (TILE, TILE, 3), RGB, and its labelled nuclei: columns y, x (centroid, int, pixels) and
    label (index into CLASSES). The stain changes the colours alone: the same `rng`, the same tissue.
    """
    canvas = _stroma(rng)
    if rng.random() < 0.8:
        _muscle(canvas, rng)
    if cancer and rng.random() < 0.5:
        _sheets(canvas, rng)
    else:
        _glands(canvas, rng, cancer)
    _loose_cells(canvas, rng)
    rows = [(int(n.y), int(n.x), n.label) for n in canvas.nuclei if n.label != FIBROBLAST]
    return _scan(canvas, stain, rng), pd.DataFrame(rows, columns=["y", "x", "label"])


def _stroma(rng: np.random.Generator) -> Canvas:
    """Start a tile: loose fibrous tissue with pale gaps."""
    texture = fibres(rng, 1.0, 6, rng.uniform(0, np.pi), 12 * smooth(rng, 30))
    broad = fibres(rng, 3, 16, rng.uniform(0, np.pi), 14 * smooth(rng, 35))
    filled = ramp(0.3 * texture + 0.5 * broad + 0.9 * smooth(rng, 9) + rng.uniform(0.5, 1.8), 2.5)
    eosin = filled * (rng.uniform(0.17, 0.42) + 0.05 * texture + 0.04 * broad + 0.03 * smooth(rng, 1.2)) + 0.03
    haematoxylin = filled * (rng.uniform(0.04, 0.2) + 0.03 * smooth(rng, 12)) + 0.01
    return Canvas(haematoxylin, eosin, smooth(rng, 1.4), np.ones((TILE, TILE), bool))


def _muscle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lay a band of smooth muscle across the tile: from a thin one under the mucosa to one that fills half of it."""
    wave = 12 * smooth(rng, 45)
    angle = rng.uniform(0, np.pi)
    texture = fibres(rng, 0.9, 12, angle, wave)
    strands = fibres(rng, 3.5, 40, angle, wave)
    down, right = np.gradient(wave)
    direction = np.arctan2(np.sin(angle) - right, np.cos(angle) + down)
    side = rng.uniform(0, 2 * np.pi)
    reach = (X - TILE / 2) * np.cos(side) + (Y - TILE / 2) * np.sin(side) + 22 * smooth(rng, 40)
    inside = rng.uniform(35, 95) - np.abs(reach - rng.uniform(40, 140))  # pixels from the band's edge
    clefts = ramp(strands + rng.uniform(1.2, 2.2), 1.0)  # pale gaps between the strands
    eosin = clefts * (rng.uniform(0.2, 0.45) + 0.05 * texture + 0.04 * strands) + 0.04
    blend(canvas, ramp(inside, 12), clefts * (rng.uniform(0.04, 0.2) + 0.02 * texture), eosin)
    for y, x in hexagonal_grid(rng, rng.uniform(32, 42), 0.45):
        if value_at(inside, y, x) > 6:
            paint(canvas, rng, spindle(rng, y, x, value_at(direction, y, x) + rng.normal(0, 0.12), MUSCLE), 0.7)
    canvas.free &= inside < -8


def _glands(canvas: Canvas, rng: np.random.Generator, cancer: bool) -> None:
    """Compute glands that neither touch each other nor the muscle: round to long, larger and more ragged in cancer."""
    mucin = rng.uniform(0.0, 0.5) if cancer else rng.uniform(0.2, 1.0)  # share of goblet cells
    waves = (rng.uniform(3, 9) if cancer else rng.uniform(1, 4)) * smooth(rng, 22)
    for _ in range(40):
        cy, cx = rng.uniform(-20, TILE + 20, 2)
        if not value_at(canvas.free, cy, cx):
            continue
        half = max(0.0, rng.uniform(-40, 70))
        radius = rng.uniform(50, 86) if cancer else rng.uniform(46, 74)
        u, v = turned(Y - cy, X - cx, rng.uniform(0, np.pi))
        # Pixels inwards of the basement membrane:
        depth = radius - np.hypot(u - np.clip(u, -half, half), v) + waves
        if (depth > 0).sum() > 4000 and canvas.free[depth > -3].all():
            _gland(canvas, rng, depth, radius, mucin, cancer)
            canvas.free &= depth < -5


def _gland(
    canvas: Canvas, rng: np.random.Generator, depth: np.ndarray, radius: float, mucin: float, cancer: bool
) -> None:
    """Fill one gland, given the depth of each pixel below its outline: tall cells in rows round a lumen."""
    tall = rng.uniform(34, 54)  # height of the cells
    oblique = rng.random() < 0.15  # cut so that only cells show, no lumen
    if oblique:
        tall = radius + 20
    down, right = np.gradient(depth)
    inwards = np.arctan2(down, right)
    _cytoplasm(canvas, rng, ramp(depth, 4) * ramp(tall - depth + 2 * smooth(rng, 6), 5))
    debris = ramp(smooth(rng, 7) - rng.uniform(0.6, 2.2), 1.0)
    blend(canvas, ramp(depth - tall, 5), 0.03 + 0.1 * debris, 0.03 + 0.15 * debris)
    canvas.eosin += 0.1 * np.exp(-(((depth + 2) / 2.0) ** 2))  # basement membrane
    if oblique:
        spots = [(y, x) for y, x in hexagonal_grid(rng, rng.uniform(22, 26), 0.3) if value_at(depth, y, x) > 8]
    else:
        canvas.eosin += 0.1 * np.exp(-(((depth - tall + 2) / 2.5) ** 2))  # brush border
        for y, x in hexagonal_grid(rng, rng.uniform(17, 21), 0.3):
            if 0.45 * tall < value_at(depth, y, x) < 0.9 * tall and rng.random() < mucin:
                oval(canvas, y, x, value_at(inwards, y, x), rng.uniform(10, 15), rng.uniform(6.5, 9.5), 0.1, 0.04)
        spots = spaced_row(rng, depth, rng.uniform(13, 16), rng.uniform(15, 19))
        for row in range(1, 1 + rng.binomial(2, 0.5 if cancer else 0.15)):
            spots += spaced_row(rng, depth, 14 + 14 * row, rng.uniform(17, 24))
    spread = 0.9 if oblique else 0.4 if cancer else 0.15
    for y, x in spots:
        angle = value_at(inwards, y, x) + rng.normal(0, spread)
        paint(canvas, rng, epithelial(rng, y, x, angle, cancer, oblique), 0.68)


def _sheets(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grow solid and cribriform cancer: crowded cells in nests without order, here and there a small lumen."""
    landscape = smooth(rng, rng.uniform(26, 40))
    down, right = np.gradient(landscape)
    flow = np.arctan2(down, right)
    nest = np.where(ndimage.binary_erosion(canvas.free, iterations=6), landscape + rng.uniform(0.2, 0.9), -1.0)
    holes = smooth(rng, 13) - rng.uniform(1.4, 2.2)
    cell = ramp(ndimage.gaussian_filter(nest, 2), 0.3) * ramp(-holes, 0.4)
    _cytoplasm(canvas, rng, cell)
    blend(canvas, ramp(nest, 0.3) * ramp(holes, 0.4), 0.05, 0.06)
    for y, x in hexagonal_grid(rng, rng.uniform(25, 31), 0.45):
        if value_at(cell, y, x) > 0.6:
            paint(canvas, rng, epithelial(rng, y, x, value_at(flow, y, x) + rng.normal(0, 0.6), True, False), 0.64)
    canvas.free &= nest < -0.15


def _cytoplasm(canvas: Canvas, rng: np.random.Generator, share: np.ndarray) -> None:
    """Fill epithelium with grainy cytoplasm, more lilac or more pink."""
    grain = smooth(rng, 2.5)
    blend(canvas, share, rng.uniform(0.1, 0.28) + 0.04 * grain, rng.uniform(0.12, 0.36) + 0.04 * grain)


def _loose_cells(canvas: Canvas, rng: np.random.Generator) -> None:
    """Crowd leukocytes into a part of the stroma; strew them, fibroblasts and heaps of red blood cells over the rest.

    Single leukocytes come anywhere, also among muscle and epithelium.
    """
    free = ndimage.gaussian_filter(canvas.free.astype(np.float64), 4)
    crowd = ramp(smooth(rng, 35) - rng.uniform(0.2, 1.4), 0.4) * ramp(free - 0.6, 0.4)
    blend(canvas, 0.8 * crowd, 0.04, rng.uniform(0.05, 0.2) + 0.04 * smooth(rng, 4))
    for y, x in hexagonal_grid(rng, rng.uniform(17, 22), 0.4):
        if value_at(crowd, y, x) > 0.5:
            paint(canvas, rng, leukocyte(rng, y, x), 0.85)
    for y, x in hexagonal_grid(rng, rng.uniform(28, 40), 0.7):
        if value_at(canvas.free, y, x):
            fibroblast = rng.random() < 0.4
            cell = spindle(rng, y, x, rng.uniform(0, np.pi), FIBROBLAST) if fibroblast else leukocyte(rng, y, x)
            paint(canvas, rng, cell, 0.9)
    for y, x in rng.uniform(0, TILE, (rng.integers(10, 36), 2)):
        if value_at(canvas.eosin, y, x) > 0.1:  # not in a lumen
            paint(canvas, rng, leukocyte(rng, y, x), 0.85)
    for centre in rng.uniform(0, TILE, (rng.integers(0, 3), 2)):
        for y, x in rng.normal(centre, 10, (9, 2)):
            if value_at(canvas.free, y, x) and all((y - n.y) ** 2 + (x - n.x) ** 2 > 180 for n in canvas.nuclei):
                oval(canvas, y, x, 0.0, rng.uniform(5, 7), rng.uniform(5, 7), 0.03, rng.uniform(0.55, 0.8))


def _scan(canvas: Canvas, stain: Stain, rng: np.random.Generator) -> np.ndarray:
    """Turn concentrations into RGB: Beer and Lambert's law, the scanner's blur, its noise."""
    thickness = rng.uniform(0.88, 1.14)  # of the cut, which is never the same all over a slide
    amounts = np.stack([canvas.haematoxylin, canvas.eosin], axis=-1).clip(0) * (thickness * stain.amounts)
    light = np.exp(-(amounts @ stain.vectors))
    light = ndimage.gaussian_filter(light, (stain.blur, stain.blur, 0))
    light += 0.5 * (light - ndimage.gaussian_filter(light, (2, 2, 0)))  # scanners sharpen
    light = light * stain.background + stain.noise * rng.standard_normal(light.shape)
    return light.round().clip(0, 255).astype(np.uint8)
