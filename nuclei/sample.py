"""Synthetic H&E colon tissue in the competition's layout, so that everything runs without data.

A tile is two concentration maps, haematoxylin and eosin, that Beer and Lambert's law turns into RGB with the stain
vectors of Ruifrok & Johnston (2001) and of Macenko et al. (2009), the two ends between which the patients lie.
As in the competition, a tile holds normal or cancer epithelium but never both, crops are cut around nuclei, and so
the crops of a tile overlap.
"""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from nuclei.classes import CLASSES
from nuclei.files import replacing_folder, write_csv
from nuclei.params import Sample

TILE = 512  # pixels a side
CROP = 100  # pixels a side
SHARES = (0.15, 0.40, 0.13, 0.32)  # of the classes, a little flatter than the competition's
UNLABELLED = -1  # fibroblasts: part of the tissue, never the middle of a crop

RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # haematoxylin and eosin, optical density in R, G, B
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
    pointed: float  # 0: oval, 1: spindle
    bend: float  # sideways shift of the tips
    dark: float  # concentration of haematoxylin
    clear: float  # how much paler than that the ground between the chromatin is, share
    coarse: float  # contrast of the chromatin's clumps
    rim: float  # strength of the membrane
    nucleoli: int
    soft: float  # width of the edge: how far out of focus


@dataclass
class Canvas:
    """The tile in the making: concentrations, float32, (TILE, TILE), and the nuclei painted so far."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    fine: np.ndarray  # noise of unit variance that chromatin is cut from, float32
    clumps: np.ndarray  # the same, coarser
    free: np.ndarray  # bool: stroma, not yet taken by a structure
    nuclei: list[Nucleus] = field(default_factory=list)
    centroids: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """A sample in memory. `table` says where each crop lies: role, number, label, tile, patient, y, x."""

    tiles: list[np.ndarray]  # uint8, (TILE, TILE, 3)
    crops: np.ndarray  # uint8, (N, CROP, CROP, 3), in the order of the table
    table: pd.DataFrame


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a patient: stain vectors between two published pairs, amounts, brightness, sharpness, noise."""
    mix = rng.uniform((0.0, 0.45), (0.6, 1.0))[:, None]
    vectors = (1 - mix) * RUIFROK + mix * MACENKO + rng.normal(0, 0.015, (2, 3))
    return Stain(
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        amounts=rng.uniform((0.75, 0.7), (1.15, 1.25)),
        background=rng.uniform(232, 250) + rng.normal(0, 2, 3),
        blur=rng.uniform(0.5, 1.0),
        noise=rng.uniform(1.5, 3.5),
    )


def draw_tile(rng: np.random.Generator, stain: Stain, cancer: bool) -> tuple[np.ndarray, pd.DataFrame]:
    """Draw one tile of tissue with normal or with cancer epithelium.

    Returns the tile, uint8, (TILE, TILE, 3), RGB, and its labelled nuclei, some partly beyond the border: columns
    y, x (rounded centroid, int, pixels) and label (index into CLASSES).
    """
    canvas = _stroma(rng)
    if rng.random() < 0.75:
        _muscle(canvas, rng)
    if cancer and rng.random() < 0.5:
        _sheets(canvas, rng)
    else:
        _glands(canvas, rng, cancer)
    _aggregate(canvas, rng)
    _scatter(canvas, rng)
    rows = [
        (round(y), round(x), nucleus.label)
        for nucleus, (y, x) in zip(canvas.nuclei, canvas.centroids, strict=True)
        if nucleus.label != UNLABELLED
    ]
    table = pd.DataFrame(rows, columns=["y", "x", "label"]).drop_duplicates(["y", "x"], ignore_index=True)
    return _scan(canvas, stain, rng), table


def draw_sample(config: Sample) -> Drawn:
    """Draw tiles, patient after patient, until they hold enough nuclei of each class; cut the crops.

    Every patient has at least one tile of normal and one of cancer tissue, and there are at least three of each.
    The crops are drawn at random from all nuclei at least half a crop from the border, by class; in the table
    `role` is train or test, and `number` the number in the file name, which says nothing of class or tile.
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
        inside = nuclei[["y", "x"]].ge(CROP // 2).all(axis=1) & nuclei[["y", "x"]].le(TILE - CROP // 2).all(axis=1)
        tables.append(nuclei[inside].assign(tile=len(tiles), patient=patient))
        found += np.bincount(nuclei.label[inside], minlength=len(CLASSES))
        tiles.append(tile)
    pool = pd.concat(tables, ignore_index=True)
    rng = np.random.default_rng([config.seed, 2])
    shuffled = pool.iloc[rng.permutation(len(pool))]
    rank = shuffled.groupby("label").cumcount()
    train = rank < quotas["train"][shuffled.label]
    test = ~train & (rank < wanted[shuffled.label])
    first = 10 ** max(4, len(str(config.train)))  # the competition's test crops start at 10001.png
    table = pd.concat(
        [
            shuffled[train].assign(role="train", number=np.arange(1, config.train + 1)),
            shuffled[test].assign(role="test", number=np.arange(first + 1, first + config.test + 1)),
        ],
        ignore_index=True,
    )
    half = CROP // 2
    crops = np.stack(
        [tiles[t][y - half : y + half, x - half : x + half] for t, y, x in zip(table.tile, table.y, table.x)]
    )
    return Drawn(tiles, crops, table)


def write_sample(out: Path, config: Sample) -> None:
    """Write train.zip, train.csv, test.zip and example.csv into the folder `out`: all of them or none.

    The bytes depend on `config` alone. Neither tiles nor patients are told: as with the competition's files, who
    wants to know which crops share pixels has to look.
    """
    drawn = draw_sample(config)
    with replacing_folder(out) as folder:
        for role, table_name in (("train", "train.csv"), ("test", "example.csv")):
            chosen = drawn.table.role == role
            rows = drawn.table[chosen]
            names = [f"{number}.png" for number in rows.number]
            _write_zip(folder / f"{role}.zip", [f"{role}/{name}" for name in names], drawn.crops[chosen])
            labels = rows.label.to_numpy() if role == "train" else 0
            write_csv(folder / table_name, pd.DataFrame({"Filename": names, "Label": labels}))


def _write_zip(path: Path, members: list[str], crops: np.ndarray) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, crop in zip(members, crops, strict=True):
            png = io.BytesIO()
            Image.fromarray(crop).save(png, "PNG", compress_level=1)
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), png.getvalue())


def _quotas(total: int) -> np.ndarray:
    """Return the crops a class, int, (K,): five each where there are enough, the rest by SHARES."""
    least = min(5, total // len(CLASSES))
    exact = np.array(SHARES) * (total - least * len(CLASSES))
    counts = np.floor(exact).astype(int)
    left = total - least * len(CLASSES) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts + least


def _smooth(rng: np.random.Generator, sigma: float, size: int = TILE) -> np.ndarray:
    """Return smooth noise, float32, (size, size), mean 0, variance 1; drawn coarse and enlarged, which is quick."""
    step = max(1, int(sigma / 2))
    coarse = rng.standard_normal((size // step + 3, size // step + 3), np.float32)
    coarse = ndimage.gaussian_filter(coarse, sigma / step, mode="wrap")
    coarse = (coarse - coarse.mean()) / coarse.std()
    if step == 1:
        return coarse[:size, :size]
    cell, share = np.divmod(np.arange(size, dtype=np.int64), step)
    share = (share / step).astype(np.float32)
    wide = coarse[:, cell] * (1 - share) + coarse[:, cell + 1] * share
    return wide[cell] * (1 - share)[:, None] + wide[cell + 1] * share[:, None]


def _ramp(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 below -width / 2, 1 above width / 2, smooth between."""
    t = np.clip(values / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _fibres(
    rng: np.random.Generator, thick: float, long: float, angle: float, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return texture (unit variance) and direction (radians) of fibres at `angle`, moved sideways by `shift`."""
    noise = rng.standard_normal((TILE, TILE), np.float32)
    noise = ndimage.gaussian_filter(noise, (thick, long), mode="wrap")
    along = X * np.cos(angle) + Y * np.sin(angle)
    across = Y * np.cos(angle) - X * np.sin(angle) + shift
    texture = ndimage.map_coordinates(noise / noise.std(), (across, along), order=1, mode="grid-wrap")
    down, right = np.gradient(shift)
    return texture, np.arctan2(np.sin(angle) - right, np.cos(angle) + down)


def _stroma(rng: np.random.Generator) -> Canvas:
    """Start a tile: loose fibrous tissue with pale gaps."""
    texture, _ = _fibres(rng, 1.0, 6, rng.uniform(0, np.pi), 12 * _smooth(rng, 30))
    broad, _ = _fibres(rng, 3, 16, rng.uniform(0, np.pi), 14 * _smooth(rng, 35))
    density = texture * 0.5 + broad * 0.7 + 0.7 * _smooth(rng, 9) + rng.uniform(0.7, 1.7)
    filled = _ramp(density, 1.8)
    eosin = filled * (rng.uniform(0.28, 0.48) + 0.07 * texture + 0.05 * broad + 0.03 * _smooth(rng, 1.2)) + 0.03
    haematoxylin = filled * (rng.uniform(0.06, 0.2) + 0.03 * _smooth(rng, 12))
    return Canvas(haematoxylin, eosin, _smooth(rng, 0.9), _smooth(rng, 1.6), np.ones((TILE, TILE), bool))


def _muscle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lay a bundle of smooth muscle along one side of the tile."""
    wave = 12 * _smooth(rng, 45)
    angle = rng.uniform(0, np.pi)
    texture, direction = _fibres(rng, 0.9, 12, angle, wave)
    strands, _ = _fibres(rng, 3.5, 40, angle, wave)
    side = rng.uniform(0, 2 * np.pi)
    reach = (X - TILE / 2) * np.cos(side) + (Y - TILE / 2) * np.sin(side) + 22 * _smooth(rng, 40)
    inside = reach - rng.uniform(0.02, 0.2) * TILE
    share = _ramp(inside, 12)
    clefts = _ramp(strands + rng.uniform(1.2, 2.2), 1.0)  # pale gaps between the strands
    eosin = clefts * (rng.uniform(0.45, 0.7) + 0.06 * texture + 0.05 * strands) + 0.04
    haematoxylin = clefts * (rng.uniform(0.08, 0.25) + 0.02 * texture)
    canvas.eosin += share * (eosin - canvas.eosin)
    canvas.haematoxylin += share * (haematoxylin - canvas.haematoxylin)
    for y, x in _grid(rng, rng.uniform(34, 44), 0.45):
        if _at(inside, y, x) > 6:
            _paint(
                canvas,
                rng,
                _spindle(rng, y, x, _at(direction, y, x) + rng.normal(0, 0.12), CLASSES.index("muscle")),
                0.7,
            )
    canvas.free &= inside < -8


def _glands(canvas: Canvas, rng: np.random.Generator, cancer: bool) -> None:
    """Place glands: rows of tall cells round a lumen, some cut at an angle that shows only cells."""
    mucin = rng.uniform(0.0, 0.6) if cancer else rng.uniform(0.2, 1.0)  # share of goblet cells
    waves = rng.uniform(3, 9) if cancer else rng.uniform(2, 6)
    for _ in range(60):
        cy, cx = rng.uniform(-20, TILE + 20, 2)
        if not _at(canvas.free, cy, cx):
            continue
        angle = rng.uniform(0, np.pi)
        half = max(0.0, rng.uniform(-40, 70))
        radius = rng.uniform(50, 86) if cancer else rng.uniform(48, 78)
        wobble = waves * _smooth(rng, 22)
        u = (X - cx) * np.cos(angle) + (Y - cy) * np.sin(angle)
        v = (Y - cy) * np.cos(angle) - (X - cx) * np.sin(angle)
        depth = radius - np.hypot(u - np.clip(u, -half, half), v) + wobble  # pixels inwards of the basement membrane
        inside = depth > 0
        if inside.sum() < 4000 or not canvas.free[depth > -3].all():
            continue
        canvas.free &= depth < -5
        _gland(canvas, rng, depth, radius, mucin, cancer)


def _gland(
    canvas: Canvas,
    rng: np.random.Generator,
    depth: np.ndarray,
    radius: float,
    mucin: float,
    cancer: bool,
) -> None:
    """Fill one gland, given the depth of each pixel below its outline."""
    colour = rng.uniform(0.25, 0.42), rng.uniform(0.28, 0.48)  # haematoxylin and eosin of the cytoplasm
    tall = rng.uniform(36, 56) if cancer else rng.uniform(34, 52)  # height of the cells
    if rng.random() < 0.25:
        tall = radius + 20  # a tangential cut: no lumen
    down, right = np.gradient(ndimage.gaussian_filter(depth, 5))
    inwards = np.arctan2(down, right)
    grain = _smooth(rng, 2.5)
    cell = _ramp(depth, 4) * _ramp(tall - depth + 2 * _smooth(rng, 6), 5)
    lumen = _ramp(depth - tall, 5)
    canvas.haematoxylin += cell * (colour[0] + 0.04 * grain - canvas.haematoxylin)
    canvas.eosin += cell * (colour[1] + 0.05 * grain - canvas.eosin)
    brush_border = np.exp(-(((depth - tall + 2) / 2.5) ** 2)) * (tall < radius)
    membrane = np.exp(-(((depth + 2) / 2.0) ** 2))
    canvas.eosin += 0.12 * membrane + 0.1 * brush_border
    debris = _ramp(_smooth(rng, 7) - rng.uniform(0.6, 2.2), 1.0)
    canvas.haematoxylin += lumen * (0.03 + 0.12 * debris - canvas.haematoxylin)
    canvas.eosin += lumen * (0.03 + 0.2 * debris - canvas.eosin)
    sheet = tall > radius
    for y, x in _grid(rng, rng.uniform(19, 23), 0.35):
        d = _at(depth, y, x)
        if 0.45 * tall < d < 0.85 * tall and rng.random() < mucin and not sheet:
            _drop(canvas, y, x, _at(inwards, y, x), rng.uniform(9, 14), rng.uniform(6, 9), (0.14, 0.06))  # mucin
    rows = 1 + int(rng.random() < (0.7 if cancer else 0.3)) + int(cancer and rng.random() < 0.3)
    if sheet:
        spots = [(y, x) for y, x in _grid(rng, rng.uniform(22, 26), 0.3) if _at(depth, y, x) > 8]
    else:
        spots = []
        for row in range(rows):
            level = rng.uniform(13, 16) + 14 * row
            spots += _along(rng, depth, level, rng.uniform(16, 20) * (1 + 0.5 * row))
    for y, x in spots:
        turn = rng.normal(0, 0.9 if sheet else 0.35 if cancer else 0.2)
        _paint(canvas, rng, _epithelial(rng, y, x, _at(inwards, y, x) + turn, cancer, sheet), 0.66 if cancer else 0.72)


def _sheets(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grow solid and cribriform cancer: crowded cells in nests without order, here and there a small lumen."""
    landscape = _smooth(rng, rng.uniform(26, 40))
    down, right = np.gradient(landscape)
    flow = np.arctan2(down, right)
    free = ndimage.binary_erosion(canvas.free, iterations=6)
    nest = np.where(free, landscape - rng.uniform(-0.9, -0.2), -1.0)
    holes = _smooth(rng, 13) - rng.uniform(1.4, 2.2)
    cell = _ramp(ndimage.gaussian_filter(nest, 2), 0.3) * _ramp(-holes, 0.4)
    grain = _smooth(rng, 2.5)
    lumen = _ramp(nest, 0.3) * _ramp(holes, 0.4)
    canvas.haematoxylin += cell * (rng.uniform(0.25, 0.42) + 0.04 * grain - canvas.haematoxylin)
    canvas.eosin += cell * (rng.uniform(0.28, 0.48) + 0.05 * grain - canvas.eosin)
    canvas.haematoxylin += lumen * (0.05 - canvas.haematoxylin)
    canvas.eosin += lumen * (0.06 - canvas.eosin)
    for y, x in _grid(rng, rng.uniform(25, 31), 0.45):
        if _at(cell, y, x) > 0.6:
            _paint(canvas, rng, _epithelial(rng, y, x, _at(flow, y, x) + rng.normal(0, 0.6), True, False), 0.62)
    canvas.free &= nest < -0.15


def _aggregate(canvas: Canvas, rng: np.random.Generator) -> None:
    """Crowd lymphocytes into a part of the stroma, on a pale ground."""
    hills = _smooth(rng, 35) - rng.uniform(0.3, 1.1)
    share = _ramp(hills, 0.4) * _ramp(ndimage.gaussian_filter(canvas.free.astype(np.float32), 4) - 0.6, 0.4)
    ground = 0.12 + 0.06 * _smooth(rng, 4)
    canvas.eosin += share * 0.8 * (ground - canvas.eosin)
    for y, x in _grid(rng, rng.uniform(17, 23), 0.4):
        if _at(share, y, x) > 0.5:
            _paint(canvas, rng, _leukocyte(rng, y, x), 0.85)


def _scatter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Strew leukocytes and fibroblasts over what stroma is left, and single leukocytes anywhere."""
    for y, x in _grid(rng, rng.uniform(24, 40), 0.7):
        if _at(canvas.free, y, x) and rng.random() < 0.6:
            _paint(canvas, rng, _leukocyte(rng, y, x), 0.9)
    for y, x in _grid(rng, 45, 0.7):
        if _at(canvas.free, y, x):
            _paint(canvas, rng, _spindle(rng, y, x, rng.uniform(0, np.pi), UNLABELLED), 0.9)
    for _ in range(rng.integers(0, 4)):
        _vessel(canvas, rng)
    for y, x in rng.uniform(0, TILE, (12, 2)):
        _paint(canvas, rng, _leukocyte(rng, y, x), 0.8)


def _vessel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Put some red blood cells side by side into the stroma."""
    cy, cx = rng.uniform(0, TILE, 2)
    for y, x in rng.normal((cy, cx), 11, (9, 2)):
        inside = 0 <= y < TILE and 0 <= x < TILE and _at(canvas.free, y, x)
        if inside and all((y - b) ** 2 + (x - a) ** 2 > 180 for b, a in canvas.centroids):
            _drop(canvas, y, x, rng.uniform(0, np.pi), rng.uniform(6, 8), rng.uniform(4.5, 7), (0.08, rng.uniform(0.8, 1.1)))


def _epithelial(rng: np.random.Generator, y: float, x: float, angle: float, cancer: bool, cross: bool) -> Nucleus:
    """Draw an epithelial nucleus: one atypia, whose distributions overlap, tells normal from cancer."""
    atypia = rng.beta(2.6, 2.4) if cancer else rng.beta(1.8, 4)
    length = 23 + 15 * atypia + rng.normal(0, 2.5)
    aspect = rng.uniform(0.72, 0.95) if cross else np.clip(0.6 + 0.12 * atypia + rng.normal(0, 0.08), 0.42, 0.95)
    return Nucleus(
        y=y,
        x=x,
        label=int(cancer),
        angle=angle,
        length=length * (0.85 if cross else 1.0),
        width=length * aspect,
        rough=0.015 + 0.075 * atypia,
        pointed=0.0,
        bend=rng.normal(0, 1),
        dark=np.clip(rng.normal(1.25, 0.2), 0.7, 1.8),
        clear=np.clip(rng.normal(0.45, 0.15), 0.0, 0.7),
        coarse=max(0.05, 0.2 + 0.55 * atypia + rng.normal(0, 0.08)),
        rim=rng.uniform(0.3, 0.8),
        nucleoli=int(rng.poisson(0.2 + 2 * atypia)),
        soft=rng.uniform(1.5, 4.5),
    )


def _leukocyte(rng: np.random.Generator, y: float, x: float) -> Nucleus:
    """Draw a leukocyte's nucleus: small, round and dark; one in six larger and paler, a few lobed."""
    large = rng.random() < 0.16
    length = rng.normal(22, 2) if large else rng.normal(17, 1.5)
    return Nucleus(
        y=y,
        x=x,
        label=CLASSES.index("immune leukocyte"),
        angle=rng.uniform(0, np.pi),
        length=length,
        width=length * np.clip(rng.normal(0.9, 0.09), 0.55, 1),
        rough=0.12 if rng.random() < 0.08 else 0.025,
        pointed=0.0,
        bend=0.0,
        dark=rng.normal(1.25, 0.15) if large else np.clip(rng.normal(1.5, 0.25), 0.8, 2.1),
        clear=rng.uniform(0.3, 0.5) if large else rng.uniform(0.05, 0.35),
        coarse=rng.uniform(0.25, 0.6),
        rim=rng.uniform(0.1, 0.5),
        nucleoli=int(large and rng.random() < 0.4),
        soft=rng.uniform(1.5, 4.5),
    )


def _spindle(rng: np.random.Generator, y: float, x: float, angle: float, label: int) -> Nucleus:
    """Draw a muscle cell's or a fibroblast's nucleus: long and thin; some plump, some cut across."""
    kind = rng.choice(3, p=(0.72, 0.18, 0.1))
    length = (rng.normal(44, 7), rng.normal(28, 4), rng.normal(16, 2))[kind]
    width = (rng.normal(8.8, 1.3), rng.normal(12, 1.5), rng.normal(12.5, 1.5))[kind]
    return Nucleus(
        y=y,
        x=x,
        label=label,
        angle=angle,
        length=length,
        width=width,
        rough=rng.uniform(0.01, 0.06),
        pointed=(rng.uniform(0.3, 0.8), 0.2, 0.0)[kind],
        bend=rng.normal(0, 2.5) if kind == 0 else 0.0,
        dark=np.clip(rng.normal(1.1, 0.25), 0.5, 1.8),
        clear=np.clip(rng.normal(0.35, 0.15), 0.0, 0.65),
        coarse=rng.uniform(0.15, 0.5),
        rim=rng.uniform(0.2, 0.6),
        nucleoli=int(rng.random() < 0.15),
        soft=rng.uniform(1.5, 4.5),
    )


def _paint(canvas: Canvas, rng: np.random.Generator, nucleus: Nucleus, apart: float) -> None:
    """Put a nucleus on the canvas, unless one lies nearer than `apart` times the sum of their mean radii."""
    radius = (nucleus.length * nucleus.width) ** 0.5 / 2
    for other in canvas.nuclei:
        reach = apart * (radius + (other.length * other.width) ** 0.5 / 2)
        if (other.y - nucleus.y) ** 2 + (other.x - nucleus.x) ** 2 < reach * reach:
            return
    half = int(max(nucleus.length, nucleus.width) * 0.6 + abs(nucleus.bend) + 5)
    top, left = max(0, int(nucleus.y) - half), max(0, int(nucleus.x) - half)
    bottom, right = min(TILE, int(nucleus.y) + half), min(TILE, int(nucleus.x) + half)
    window = slice(top, bottom), slice(left, right)
    dy, dx = Y[window] - nucleus.y, X[window] - nucleus.x
    u = (dx * np.cos(nucleus.angle) + dy * np.sin(nucleus.angle)) / (nucleus.length / 2)
    v = (dy * np.cos(nucleus.angle) - dx * np.sin(nucleus.angle)) - nucleus.bend * (u * u - 0.3)
    v = v / (nucleus.width / 2 * (1 - nucleus.pointed * np.clip(np.abs(u), 0, 1) ** 3))
    turn = np.arctan2(v, u)
    outline = np.ones_like(u)
    for wave in (2, 3, 4):
        outline += nucleus.rough * rng.normal() * np.cos(wave * turn + rng.uniform(0, 2 * np.pi)) * 2 / wave
    inner = np.hypot(u, v) / outline  # 0 in the middle, 1 on the outline
    alpha = _ramp((1 - inner) * radius, nucleus.soft)
    oy, ox = rng.integers(0, TILE - 2 * half, 2)
    piece = slice(oy, oy + bottom - top), slice(ox, ox + right - left)
    tone = 1 - nucleus.clear + 0.1 * canvas.fine[piece] + nucleus.coarse * _ramp(canvas.clumps[piece] - 0.4, 1.6)
    rim = np.exp(-(((1 - inner) * radius - 1.3) ** 2) / 1.8)
    tone += nucleus.rim * rim * (0.8 + 0.4 * canvas.clumps[piece])
    for _ in range(nucleus.nucleoli):
        a, b = rng.uniform(-0.5, 0.5, 2)
        size = rng.uniform(1.3, 2.4)
        spot = ((u - a) * nucleus.length / 2) ** 2 + ((v - b) * nucleus.width / 2) ** 2
        tone += 0.9 * np.exp(-spot / (2 * size * size))
    content = nucleus.dark * np.clip(tone, 0.25, 2.2)
    canvas.haematoxylin[window] += alpha * (content - 0.75 * canvas.haematoxylin[window])
    canvas.eosin[window] *= 1 - 0.35 * alpha
    weight = alpha.sum()
    canvas.nuclei.append(nucleus)
    canvas.centroids.append(((alpha * Y[window]).sum() / weight, (alpha * X[window]).sum() / weight))


def _drop(
    canvas: Canvas, y: float, x: float, angle: float, length: float, width: float, content: tuple[float, float]
) -> None:
    """Paint an oval, given by its half axes, of one concentration of haematoxylin and of eosin."""
    half = int(length) + 3
    window = slice(max(0, int(y) - half), max(0, int(y) + half)), slice(max(0, int(x) - half), max(0, int(x) + half))
    dy, dx = Y[window] - y, X[window] - x
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    alpha = 0.85 * _ramp((1 - np.hypot(u / length, v / width)) * width, 2.5)
    canvas.haematoxylin[window] += alpha * (content[0] - canvas.haematoxylin[window])
    canvas.eosin[window] += alpha * (content[1] - canvas.eosin[window])


def _grid(rng: np.random.Generator, spacing: float, jitter: float) -> np.ndarray:
    """Return points (y, x) of a hexagonal grid in the tile, in random order, moved by about jitter * spacing / 2."""
    rows = np.arange(-spacing, TILE + spacing, spacing * 0.87)
    columns = np.arange(-spacing, TILE + spacing, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + spacing / 2 * (np.arange(len(rows)) % 2)[:, None]
    points = np.column_stack([y.ravel(), x.ravel()]) + rng.normal(0, jitter * spacing / 2, (y.size, 2))
    points = points[((points >= 0) & (points < TILE)).all(axis=1)]
    return points[rng.permutation(len(points))]


def _along(rng: np.random.Generator, depth: np.ndarray, level: float, spacing: float) -> list[tuple[float, float]]:
    """Return points about `spacing` apart on the contour where depth is `level`, scattered a little across it."""
    ys, xs = np.nonzero(np.abs(depth - level) < 3.5)
    order = rng.permutation(len(ys))
    chosen: list[tuple[float, float]] = []
    for y, x in zip(ys[order].tolist(), xs[order].tolist(), strict=True):
        if all((y - b) ** 2 + (x - a) ** 2 > spacing * spacing for b, a in chosen):
            chosen.append((y, x))
    return chosen


def _at(values: np.ndarray, y: float, x: float) -> float:
    """Return the value at the pixel nearest to a point that may lie outside."""
    return float(values[min(max(round(y), 0), TILE - 1), min(max(round(x), 0), TILE - 1)])


def _scan(canvas: Canvas, stain: Stain, rng: np.random.Generator) -> np.ndarray:
    """Turn concentrations into RGB: Beer and Lambert's law, the scanner's blur, its noise."""
    amounts = np.stack([canvas.haematoxylin, canvas.eosin], axis=-1).clip(0) * stain.amounts
    light = np.exp(-(amounts.astype(np.float32) @ stain.vectors.astype(np.float32)))
    light = ndimage.gaussian_filter(light, (stain.blur, stain.blur, 0))
    light += 0.7 * (light - ndimage.gaussian_filter(light, (2, 2, 0)))  # scanners sharpen
    light *= stain.background.astype(np.float32)
    light += stain.noise * rng.standard_normal(light.shape, np.float32)
    return light.round().clip(0, 255).astype(np.uint8)
