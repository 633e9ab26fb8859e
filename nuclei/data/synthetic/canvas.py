"""The canvas that synthetic tissue is drawn on, and its strokes.

All of it in float64: kinds of processor differ in the last bit of exp, cos and of sums, here 1e-15 of a grey level, far
too little to turn the rounding of a pixel or of a position. In float32 several pixels per sample turn.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy import ndimage

TILE = 400  # pixels a side

Y, X = np.mgrid[:TILE, :TILE].astype(np.float64)


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
    """The tile in the making: concentrations, float64, (TILE, TILE), and the nuclei painted so far."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    chromatin: np.ndarray  # noise of unit variance that the clumps are cut from, float64
    free: np.ndarray  # bool: stroma, not yet taken by a structure
    nuclei: list[Nucleus] = field(default_factory=list)


def blend(
    canvas: Canvas,
    share: np.ndarray,
    haematoxylin: np.ndarray | float,
    eosin: np.ndarray | float,
    window: tuple[slice, slice] = np.s_[:, :],
) -> None:
    """Replace `share`, 0 to 1, of what is in the window."""
    canvas.haematoxylin[window] += share * (haematoxylin - canvas.haematoxylin[window])
    canvas.eosin[window] += share * (eosin - canvas.eosin[window])


def smooth(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Return smooth noise, float64, (TILE, TILE), mean 0, variance 1; drawn coarse and enlarged, which is quick."""
    step = max(1, int(sigma / 2))
    noise = rng.standard_normal((TILE // step, TILE // step))
    coarse = ndimage.gaussian_filter(noise, sigma / step)
    coarse = (coarse - coarse.mean()) / coarse.std()
    enlarged = Image.fromarray(coarse.astype(np.float32)).resize((TILE, TILE), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, np.float64)


def fibres(rng: np.random.Generator, thick: float, long: float, angle: float, shift: np.ndarray) -> np.ndarray:
    """Return the texture, unit variance, of fibres at `angle`, moved sideways by `shift`."""
    noise = ndimage.gaussian_filter(rng.standard_normal((TILE, TILE)), (thick, long), mode="wrap")
    along, across = turned(Y, X, angle)
    return ndimage.map_coordinates(noise / noise.std(), (across + shift, along), order=1, mode="grid-wrap")


def turned(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates along and across an axis at `angle`."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def ramp(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 below -width / 2, 1 above width / 2, smooth between."""
    t = np.clip(values / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def hexagonal_grid(rng: np.random.Generator, spacing: float, jitter: float) -> np.ndarray:
    """Return points (y, x) of a hexagonal grid in the tile, in random order, moved by about jitter * spacing / 2."""
    rows = np.arange(-spacing, TILE + spacing, spacing * 0.87)
    columns = np.arange(-spacing, TILE + spacing, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + spacing / 2 * (np.arange(len(rows)) % 2)[:, None]
    points = np.column_stack([y.ravel(), x.ravel()]) + rng.normal(0, jitter * spacing / 2, (y.size, 2))
    return rng.permutation(points[((points >= 0) & (points < TILE)).all(axis=1)])


def spaced_row(rng: np.random.Generator, depth: np.ndarray, level: float, spacing: float) -> list[tuple[float, float]]:
    """Return points about `spacing` apart on the contour where depth is `level`, scattered a little across it."""
    chosen: list[tuple[float, float]] = []
    for y, x in rng.permutation(np.argwhere(np.abs(depth - level) < 3)).tolist():
        if all((y - b) ** 2 + (x - a) ** 2 > spacing * spacing for b, a in chosen):
            chosen.append((y, x))
    return chosen


def window_around(y: float, x: float, half: float) -> tuple[slice, slice]:
    """Return the part of the tile that is within `half` of a point."""
    return slice(max(0, int(y - half)), max(0, int(y + half))), slice(max(0, int(x - half)), max(0, int(x + half)))


def value_at(values: np.ndarray, y: float, x: float) -> float:
    """Return the value at the pixel nearest to a point that may lie outside."""
    return float(values[min(max(round(y), 0), TILE - 1), min(max(round(x), 0), TILE - 1)])
