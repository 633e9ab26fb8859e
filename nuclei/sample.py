"""Synthetic H&E colon tissue in the competition's layout, so that everything runs without data.

A tile is two concentration maps, haematoxylin and eosin, that Beer and Lambert's law turns into RGB with the stain
vectors of Ruifrok & Johnston (2001) and of Macenko et al. (2009), the two ends between which the patients lie.
As in the competition, a tile holds normal or cancer epithelium but never both, crops are cut around nuclei, and so
the crops of a tile overlap.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from nuclei.classes import CLASSES
from nuclei.competition import numbers, writing_competition
from nuclei.params import Sample

NORMAL, CANCER, MUSCLE, LEUKOCYTE = range(len(CLASSES))
FIBROBLAST = -1  # part of the tissue, never the middle of a crop
TILE = 400  # pixels a side
CROP = 100  # pixels a side
SHARES = (0.18, 0.36, 0.15, 0.31)  # of the classes, a little flatter than the competition's

# Optical density of haematoxylin and of eosin in R, G, B.
RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
MACENKO = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])

Y, X = np.mgrid[:TILE, :TILE].astype(np.float32)


@dataclass(frozen=True)
class Stain:
    """How one patient's slide was cut, stained and scanned."""

    vectors: np.ndarray  # (2, 3), unit rows: optical density of haematoxylin and eosin in R, G, B
    amounts: np.ndarray  # (2,), factors on the two concentrations
    background: np.ndarray  # (3,), RGB of bare glass, 0 to 255
    blur: float  # standard deviation, pixels
    noise: float  # standard deviation, grey levels


@dataclass(frozen=True)
class Nucleus:
    """One nucleus; lengths in pixels, angles in radians from the x axis towards y."""

    y: float
    x: float
    label: int
    angle: float
    length: float
    width: float
    rough: float  # amplitude of the outline's waves, share of the radius
    dark: float  # concentration of haematoxylin
    clear: float  # how much paler than that the ground between the chromatin is, share
    coarse: float  # contrast of the chromatin's clumps
    nucleoli: int = 0
    pointed: float = 0.0  # 0: oval, 1: spindle
    bend: float = 0.0  # sideways shift of the tips


@dataclass
class Canvas:
    """The tile in the making: concentrations, float32, (TILE, TILE), and the nuclei painted so far."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    chromatin: np.ndarray  # noise of unit variance that the clumps are cut from, float32
    free: np.ndarray  # bool: stroma, not yet taken by a structure
    nuclei: list[Nucleus] = field(default_factory=list)


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


def draw_sample(config: Sample) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Draw tiles, patient after patient, until they hold enough nuclei of each class, and choose the crops.

    Every patient has at least one tile of normal and one of cancer tissue, and there are at least three of each.
    The crops are drawn at random from all nuclei at least half a crop from the border, by class.

    Returns the tiles and a table of the crops: role (train or test), number (in the file name; says nothing of class
    or tile), label, tile, patient, and y, x of the nucleus in its tile.
    """
    quotas = {"train": _quotas(config.train), "test": _quotas(config.test)}
    wanted = sum(quotas.values())
    tiles: list[np.ndarray] = []
    tables: list[pd.DataFrame] = []
    found = np.zeros(len(CLASSES), int)
    while len(tiles) < max(6, 2 * config.patients) or (found < wanted).any():
        turn, patient = divmod(len(tiles), config.patients)
        stain = draw_stain(np.random.default_rng([config.seed, 0, patient]))
        tile, nuclei = draw_tile(np.random.default_rng([config.seed, 1, len(tiles)]), stain, (turn + patient) % 2 == 1)
        inside = nuclei[nuclei[["y", "x"]].isin(range(CROP // 2, TILE - CROP // 2 + 1)).all(axis=1)]
        tables.append(inside.assign(tile=len(tiles), patient=patient))
        found += np.bincount(inside.label, minlength=len(CLASSES))
        tiles.append(tile)
    shuffled = pd.concat(tables, ignore_index=True).sample(frac=1, random_state=np.random.default_rng([config.seed, 2]))
    rank = shuffled.groupby("label").cumcount()
    train = rank < quotas["train"][shuffled.label]
    test = ~train & (rank < wanted[shuffled.label])
    in_train, in_test = numbers(config.train, config.test)
    parts = [
        shuffled[train].assign(role="train", number=in_train),
        shuffled[test].assign(role="test", number=in_test),
    ]
    return tiles, pd.concat(parts, ignore_index=True)


def write_sample(out: Path, config: Sample) -> None:
    """Write train.zip, train.csv, test.zip and example.csv into the folder `out`: all of them or none.

    The bytes depend on `config` alone. Neither tiles nor patients are told: as with the competition's files, who
    wants to know which crops share pixels has to look.
    """
    tiles, table = draw_sample(config)
    with writing_competition(out, table, replace=True) as add:
        for row in table.itertuples():
            top, left = row.y - CROP // 2, row.x - CROP // 2
            add(row.role, row.number, tiles[row.tile][top : top + CROP, left : left + CROP])


def _quotas(total: int) -> np.ndarray:
    """Return the crops a class, int, (K,): five each where there are enough, the rest by SHARES."""
    least = min(5, total // len(CLASSES))
    exact = np.array(SHARES) * (total - least * len(CLASSES))
    counts = np.floor(exact).astype(int)
    left = total - least * len(CLASSES) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts + least


def _stroma(rng: np.random.Generator) -> Canvas:
    """Start a tile: loose fibrous tissue with pale gaps."""
    texture = _fibres(rng, 1.0, 6, rng.uniform(0, np.pi), 12 * _smooth(rng, 30))
    broad = _fibres(rng, 3, 16, rng.uniform(0, np.pi), 14 * _smooth(rng, 35))
    filled = _ramp(0.3 * texture + 0.5 * broad + 0.9 * _smooth(rng, 9) + rng.uniform(0.5, 1.8), 2.5)
    eosin = filled * (rng.uniform(0.17, 0.42) + 0.05 * texture + 0.04 * broad + 0.03 * _smooth(rng, 1.2)) + 0.03
    haematoxylin = filled * (rng.uniform(0.04, 0.2) + 0.03 * _smooth(rng, 12)) + 0.01
    return Canvas(haematoxylin, eosin, _smooth(rng, 1.4), np.ones((TILE, TILE), bool))


def _muscle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lay a band of smooth muscle across the tile: from a thin one under the mucosa to one that fills half of it."""
    wave = 12 * _smooth(rng, 45)
    angle = rng.uniform(0, np.pi)
    texture = _fibres(rng, 0.9, 12, angle, wave)
    strands = _fibres(rng, 3.5, 40, angle, wave)
    down, right = np.gradient(wave)
    direction = np.arctan2(np.sin(angle) - right, np.cos(angle) + down)
    side = rng.uniform(0, 2 * np.pi)
    reach = (X - TILE / 2) * np.cos(side) + (Y - TILE / 2) * np.sin(side) + 22 * _smooth(rng, 40)
    inside = rng.uniform(35, 95) - np.abs(reach - rng.uniform(40, 140))  # pixels from the band's edge
    clefts = _ramp(strands + rng.uniform(1.2, 2.2), 1.0)  # pale gaps between the strands
    eosin = clefts * (rng.uniform(0.2, 0.45) + 0.05 * texture + 0.04 * strands) + 0.04
    _blend(canvas, _ramp(inside, 12), clefts * (rng.uniform(0.04, 0.2) + 0.02 * texture), eosin)
    for y, x in _grid(rng, rng.uniform(32, 42), 0.45):
        if _at(inside, y, x) > 6:
            _paint(canvas, rng, _spindle(rng, y, x, _at(direction, y, x) + rng.normal(0, 0.12), MUSCLE), 0.7)
    canvas.free &= inside < -8


def _glands(canvas: Canvas, rng: np.random.Generator, cancer: bool) -> None:
    """Place glands that neither touch each other nor the muscle: round to long, larger and more ragged in cancer."""
    mucin = rng.uniform(0.0, 0.5) if cancer else rng.uniform(0.2, 1.0)  # share of goblet cells
    waves = (rng.uniform(3, 9) if cancer else rng.uniform(1, 4)) * _smooth(rng, 22)
    for _ in range(40):
        cy, cx = rng.uniform(-20, TILE + 20, 2)
        if not _at(canvas.free, cy, cx):
            continue
        half = max(0.0, rng.uniform(-40, 70))
        radius = rng.uniform(50, 86) if cancer else rng.uniform(46, 74)
        u, v = _turned(Y - cy, X - cx, rng.uniform(0, np.pi))
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
    _cytoplasm(canvas, rng, _ramp(depth, 4) * _ramp(tall - depth + 2 * _smooth(rng, 6), 5))
    debris = _ramp(_smooth(rng, 7) - rng.uniform(0.6, 2.2), 1.0)
    _blend(canvas, _ramp(depth - tall, 5), 0.03 + 0.1 * debris, 0.03 + 0.15 * debris)
    canvas.eosin += 0.1 * np.exp(-(((depth + 2) / 2.0) ** 2))  # basement membrane
    if oblique:
        spots = [(y, x) for y, x in _grid(rng, rng.uniform(22, 26), 0.3) if _at(depth, y, x) > 8]
    else:
        canvas.eosin += 0.1 * np.exp(-(((depth - tall + 2) / 2.5) ** 2))  # brush border
        for y, x in _grid(rng, rng.uniform(17, 21), 0.3):
            if 0.45 * tall < _at(depth, y, x) < 0.9 * tall and rng.random() < mucin:
                _oval(canvas, y, x, _at(inwards, y, x), rng.uniform(10, 15), rng.uniform(6.5, 9.5), 0.1, 0.04)
        spots = _row(rng, depth, rng.uniform(13, 16), rng.uniform(15, 19))
        for row in range(1, 1 + rng.binomial(2, 0.5 if cancer else 0.15)):
            spots += _row(rng, depth, 14 + 14 * row, rng.uniform(17, 24))
    turn = 0.9 if oblique else 0.4 if cancer else 0.15
    for y, x in spots:
        angle = _at(inwards, y, x) + rng.normal(0, turn)
        _paint(canvas, rng, _epithelial(rng, y, x, angle, cancer, oblique), 0.68)


def _sheets(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grow solid and cribriform cancer: crowded cells in nests without order, here and there a small lumen."""
    landscape = _smooth(rng, rng.uniform(26, 40))
    down, right = np.gradient(landscape)
    flow = np.arctan2(down, right)
    nest = np.where(ndimage.binary_erosion(canvas.free, iterations=6), landscape + rng.uniform(0.2, 0.9), -1.0)
    holes = _smooth(rng, 13) - rng.uniform(1.4, 2.2)
    cell = _ramp(ndimage.gaussian_filter(nest, 2), 0.3) * _ramp(-holes, 0.4)
    _cytoplasm(canvas, rng, cell)
    _blend(canvas, _ramp(nest, 0.3) * _ramp(holes, 0.4), 0.05, 0.06)
    for y, x in _grid(rng, rng.uniform(25, 31), 0.45):
        if _at(cell, y, x) > 0.6:
            _paint(canvas, rng, _epithelial(rng, y, x, _at(flow, y, x) + rng.normal(0, 0.6), True, False), 0.64)
    canvas.free &= nest < -0.15


def _cytoplasm(canvas: Canvas, rng: np.random.Generator, share: np.ndarray) -> None:
    """Fill epithelium with grainy cytoplasm, more lilac or more pink."""
    grain = _smooth(rng, 2.5)
    _blend(canvas, share, rng.uniform(0.1, 0.28) + 0.04 * grain, rng.uniform(0.12, 0.36) + 0.04 * grain)


def _loose_cells(canvas: Canvas, rng: np.random.Generator) -> None:
    """Crowd leukocytes into a part of the stroma; strew them, fibroblasts and heaps of red blood cells over the rest.

    Single leukocytes come anywhere, also among muscle and epithelium.
    """
    free = ndimage.gaussian_filter(canvas.free.astype(np.float32), 4)
    crowd = _ramp(_smooth(rng, 35) - rng.uniform(0.2, 1.4), 0.4) * _ramp(free - 0.6, 0.4)
    _blend(canvas, 0.8 * crowd, 0.04, rng.uniform(0.05, 0.2) + 0.04 * _smooth(rng, 4))
    for y, x in _grid(rng, rng.uniform(17, 22), 0.4):
        if _at(crowd, y, x) > 0.5:
            _paint(canvas, rng, _leukocyte(rng, y, x), 0.85)
    for y, x in _grid(rng, rng.uniform(28, 40), 0.7):
        if _at(canvas.free, y, x):
            fibroblast = rng.random() < 0.4
            cell = _spindle(rng, y, x, rng.uniform(0, np.pi), FIBROBLAST) if fibroblast else _leukocyte(rng, y, x)
            _paint(canvas, rng, cell, 0.9)
    for y, x in rng.uniform(0, TILE, (rng.integers(10, 36), 2)):
        if _at(canvas.eosin, y, x) > 0.1:  # not in a lumen
            _paint(canvas, rng, _leukocyte(rng, y, x), 0.85)
    for centre in rng.uniform(0, TILE, (rng.integers(0, 3), 2)):
        for y, x in rng.normal(centre, 10, (9, 2)):
            if _at(canvas.free, y, x) and all((y - n.y) ** 2 + (x - n.x) ** 2 > 180 for n in canvas.nuclei):
                _oval(canvas, y, x, 0.0, rng.uniform(5, 7), rng.uniform(5, 7), 0.03, rng.uniform(0.55, 0.8))


def _epithelial(rng: np.random.Generator, y: float, x: float, angle: float, cancer: bool, across: bool) -> Nucleus:
    """Draw an epithelial nucleus: one atypia, whose distributions overlap, tells normal from cancer.

    across: cut across, not along
    """
    atypia = rng.beta(3.5, 2) if cancer else rng.beta(1.5, 5)
    length = (20 if across else 23) + 16 * atypia + rng.normal(0, 2.5)
    aspect = rng.uniform(0.75, 0.95) if across else rng.normal(0.56 + 0.15 * atypia, 0.07)
    return Nucleus(
        y=y,
        x=x,
        label=CANCER if cancer else NORMAL,
        angle=angle,
        length=length,
        width=length * np.clip(aspect, 0.42, 0.95),
        rough=0.01 + 0.09 * atypia,
        dark=np.clip(rng.normal(0.85, 0.2), 0.5, 1.4),
        clear=np.clip(rng.normal(0.5, 0.15), 0.1, 0.75),
        coarse=max(0.05, rng.normal(0.1 + 0.65 * atypia, 0.08)),
        nucleoli=rng.poisson(2 * atypia),
    )


def _leukocyte(rng: np.random.Generator, y: float, x: float) -> Nucleus:
    """Draw a leukocyte's nucleus: small, round and dark; one in ten larger and paler."""
    large = rng.random() < 0.1
    length = rng.normal(21, 1.5) if large else rng.normal(16.5, 1.3)
    return Nucleus(
        y=y,
        x=x,
        label=LEUKOCYTE,
        angle=rng.uniform(0, np.pi),
        length=length,
        width=length * np.clip(rng.normal(0.9, 0.08), 0.6, 1),
        rough=0.03,
        dark=rng.normal(0.9, 0.12) if large else np.clip(rng.normal(1.1, 0.18), 0.7, 1.6),
        clear=rng.uniform(0.3, 0.5) if large else rng.uniform(0.05, 0.3),
        coarse=rng.uniform(0.2, 0.5),
    )


def _spindle(rng: np.random.Generator, y: float, x: float, angle: float, label: int) -> Nucleus:
    """Draw a muscle cell's or a fibroblast's nucleus: long and thin; some plump, some cut across."""
    length, width, pointed, bend = (
        (rng.normal(44, 7), rng.normal(9, 1.3), rng.uniform(0.3, 0.8), rng.normal(0, 2.5)),
        (rng.normal(28, 4), rng.normal(12, 1.5), 0.2, 0.0),
        (rng.normal(16, 2), rng.normal(12.5, 1.5), 0.0, 0.0),
    )[rng.choice(3, p=(0.72, 0.18, 0.1))]
    return Nucleus(
        y=y,
        x=x,
        label=label,
        angle=angle,
        length=length,
        width=width,
        rough=rng.uniform(0.01, 0.06),
        dark=np.clip(rng.normal(0.8, 0.2), 0.4, 1.3),
        clear=np.clip(rng.normal(0.4, 0.15), 0.0, 0.65),
        coarse=rng.uniform(0.15, 0.5),
        pointed=pointed,
        bend=bend,
    )


def _paint(canvas: Canvas, rng: np.random.Generator, nucleus: Nucleus, apart: float) -> None:
    """Put a nucleus on the canvas, unless one lies nearer than `apart` times the sum of their mean radii."""
    radius = (nucleus.length * nucleus.width) ** 0.5 / 2
    for other in canvas.nuclei:
        reach = apart * (radius + (other.length * other.width) ** 0.5 / 2)
        if (other.y - nucleus.y) ** 2 + (other.x - nucleus.x) ** 2 < reach * reach:
            return
    canvas.nuclei.append(nucleus)
    window = _window(nucleus.y, nucleus.x, 0.6 * nucleus.length + abs(nucleus.bend) + 5)
    u, v = _turned(Y[window] - nucleus.y, X[window] - nucleus.x, nucleus.angle)
    u = u / (nucleus.length / 2)
    v = (v - nucleus.bend * (u * u - 0.3)) / (nucleus.width / 2)
    v = v / (1 - nucleus.pointed * np.clip(np.abs(u), 0, 1) ** 3)
    outline = 1.0
    for wave in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi)
        outline = outline + 2 / wave * nucleus.rough * rng.normal() * np.cos(wave * np.arctan2(v, u) + phase)
    depth = (1 - np.hypot(u, v) / outline) * radius
    inside = _ramp(depth, rng.uniform(1.5, 4.5))  # some lie out of focus
    oy, ox = rng.integers(0, TILE - np.array(u.shape))
    clumps = canvas.chromatin[oy : oy + u.shape[0], ox : ox + u.shape[1]]
    tone = 1 - nucleus.clear + nucleus.coarse * _ramp(clumps - 0.4, 1.6)
    # The paler the nucleus, the clearer its membrane.
    tone += (0.2 + nucleus.clear) * np.exp(-((depth - 1.3) ** 2) / 1.8) * (0.8 + 0.3 * clumps)
    for _ in range(nucleus.nucleoli):
        a, b = rng.uniform(-0.5, 0.5, 2)
        distance = np.hypot((u - a) * nucleus.length / 2, (v - b) * nucleus.width / 2)
        tone += 0.9 * np.exp(-0.5 * (distance / rng.uniform(1.3, 2.4)) ** 2)
    canvas.haematoxylin[window] += inside * (nucleus.dark * tone.clip(0.2, 2) - 0.75 * canvas.haematoxylin[window])
    canvas.eosin[window] *= 1 - 0.35 * inside


def _oval(
    canvas: Canvas,
    y: float,
    x: float,
    angle: float,
    length: float,
    width: float,
    haematoxylin: float,
    eosin: float,
) -> None:
    """Paint an oval, given by its half axes, of one concentration of haematoxylin and of eosin."""
    window = _window(y, x, length + 3)
    u, v = _turned(Y[window] - y, X[window] - x, angle)
    _blend(canvas, 0.85 * _ramp((1 - np.hypot(u / length, v / width)) * width, 2.5), haematoxylin, eosin, window)


def _blend(
    canvas: Canvas,
    share: np.ndarray,
    haematoxylin: np.ndarray | float,
    eosin: np.ndarray | float,
    window: tuple[slice, slice] = np.s_[:, :],
) -> None:
    """Replace `share`, 0 to 1, of what is in the window."""
    canvas.haematoxylin[window] += share * (haematoxylin - canvas.haematoxylin[window])
    canvas.eosin[window] += share * (eosin - canvas.eosin[window])


def _scan(canvas: Canvas, stain: Stain, rng: np.random.Generator) -> np.ndarray:
    """Turn concentrations into RGB: Beer and Lambert's law, the scanner's blur, its noise."""
    thickness = rng.uniform(0.88, 1.14)  # of the cut, which is never the same all over a slide
    amounts = np.stack([canvas.haematoxylin, canvas.eosin], axis=-1).clip(0) * (thickness * stain.amounts)
    light = np.exp(-(amounts.astype(np.float32) @ stain.vectors.astype(np.float32)))
    light = ndimage.gaussian_filter(light, (stain.blur, stain.blur, 0))
    light += 0.5 * (light - ndimage.gaussian_filter(light, (2, 2, 0)))  # scanners sharpen
    light = light * stain.background + stain.noise * rng.standard_normal(light.shape, np.float32)
    return light.round().clip(0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Return smooth noise, float32, (TILE, TILE), mean 0, variance 1; drawn coarse and enlarged, which is quick."""
    step = max(1, int(sigma / 2))
    noise = rng.standard_normal((TILE // step, TILE // step), np.float32)
    coarse = ndimage.gaussian_filter(noise, sigma / step)
    coarse = (coarse - coarse.mean()) / coarse.std()
    return np.asarray(Image.fromarray(coarse).resize((TILE, TILE), Image.Resampling.BICUBIC))


def _fibres(rng: np.random.Generator, thick: float, long: float, angle: float, shift: np.ndarray) -> np.ndarray:
    """Return the texture, unit variance, of fibres at `angle`, moved sideways by `shift`."""
    noise = ndimage.gaussian_filter(rng.standard_normal((TILE, TILE), np.float32), (thick, long), mode="wrap")
    along, across = _turned(Y, X, angle)
    return ndimage.map_coordinates(noise / noise.std(), (across + shift, along), order=1, mode="grid-wrap")


def _turned(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates along and across an axis at `angle`."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _ramp(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 below -width / 2, 1 above width / 2, smooth between."""
    t = np.clip(values / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _grid(rng: np.random.Generator, spacing: float, jitter: float) -> np.ndarray:
    """Return points (y, x) of a hexagonal grid in the tile, in random order, moved by about jitter * spacing / 2."""
    rows = np.arange(-spacing, TILE + spacing, spacing * 0.87)
    columns = np.arange(-spacing, TILE + spacing, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + spacing / 2 * (np.arange(len(rows)) % 2)[:, None]
    points = np.column_stack([y.ravel(), x.ravel()]) + rng.normal(0, jitter * spacing / 2, (y.size, 2))
    return rng.permutation(points[((points >= 0) & (points < TILE)).all(axis=1)])


def _row(rng: np.random.Generator, depth: np.ndarray, level: float, spacing: float) -> list[tuple[float, float]]:
    """Return points about `spacing` apart on the contour where depth is `level`, scattered a little across it."""
    chosen: list[tuple[float, float]] = []
    for y, x in rng.permutation(np.argwhere(np.abs(depth - level) < 3)).tolist():
        if all((y - b) ** 2 + (x - a) ** 2 > spacing * spacing for b, a in chosen):
            chosen.append((y, x))
    return chosen


def _window(y: float, x: float, half: float) -> tuple[slice, slice]:
    """Return the part of the tile that is within `half` of a point."""
    return slice(max(0, int(y - half)), max(0, int(y + half))), slice(max(0, int(x - half)), max(0, int(x + half)))


def _at(values: np.ndarray, y: float, x: float) -> float:
    """Return the value at the pixel nearest to a point that may lie outside."""
    return float(values[min(max(round(y), 0), TILE - 1), min(max(round(x), 0), TILE - 1)])
