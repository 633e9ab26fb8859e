"""Nuclei of each type, and how they are painted."""

import numpy as np

from nuclei.data.synthetic.canvas import TILE, Canvas, Nucleus, X, Y, blend, ramp, turned, window_around
from nuclei.task import CLASSES

NORMAL, CANCER, MUSCLE, LEUKOCYTE = range(len(CLASSES))
FIBROBLAST = -1  # part of the tissue, never the middle of a crop


def epithelial(rng: np.random.Generator, y: float, x: float, angle: float, cancer: bool, across: bool) -> Nucleus:
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


def leukocyte(rng: np.random.Generator, y: float, x: float) -> Nucleus:
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


def spindle(rng: np.random.Generator, y: float, x: float, angle: float, label: int) -> Nucleus:
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


def paint(canvas: Canvas, rng: np.random.Generator, nucleus: Nucleus, apart: float) -> None:
    """Put a nucleus on the canvas, unless one lies nearer than `apart` times the sum of their mean radii."""
    radius = (nucleus.length * nucleus.width) ** 0.5 / 2
    for other in canvas.nuclei:
        reach = apart * (radius + (other.length * other.width) ** 0.5 / 2)
        if (other.y - nucleus.y) ** 2 + (other.x - nucleus.x) ** 2 < reach * reach:
            return
    canvas.nuclei.append(nucleus)
    window = window_around(nucleus.y, nucleus.x, 0.6 * nucleus.length + abs(nucleus.bend) + 5)
    u, v = turned(Y[window] - nucleus.y, X[window] - nucleus.x, nucleus.angle)
    u = u / (nucleus.length / 2)
    v = (v - nucleus.bend * (u * u - 0.3)) / (nucleus.width / 2)
    v = v / (1 - nucleus.pointed * np.clip(np.abs(u), 0, 1) ** 3)
    outline = np.ones(())
    for wave in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi)
        outline = outline + 2 / wave * nucleus.rough * rng.normal() * np.cos(wave * np.arctan2(v, u) + phase)
    depth = (1 - np.hypot(u, v) / outline) * radius
    inside = ramp(depth, rng.uniform(1.5, 4.5))  # some lie out of focus
    oy, ox = rng.integers(0, TILE - np.array(u.shape))
    clumps = canvas.chromatin[oy : oy + u.shape[0], ox : ox + u.shape[1]]
    tone = 1 - nucleus.clear + nucleus.coarse * ramp(clumps - 0.4, 1.6)
    # The paler the nucleus, the clearer its membrane.
    tone += (0.2 + nucleus.clear) * np.exp(-((depth - 1.3) ** 2) / 1.8) * (0.8 + 0.3 * clumps)
    for _ in range(nucleus.nucleoli):
        a, b = rng.uniform(-0.5, 0.5, 2)
        distance = np.hypot((u - a) * nucleus.length / 2, (v - b) * nucleus.width / 2)
        tone += 0.9 * np.exp(-0.5 * (distance / rng.uniform(1.3, 2.4)) ** 2)
    canvas.haematoxylin[window] += inside * (nucleus.dark * tone.clip(0.2, 2) - 0.75 * canvas.haematoxylin[window])
    canvas.eosin[window] *= 1 - 0.35 * inside


def oval(
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
    window = window_around(y, x, length + 3)
    u, v = turned(Y[window] - y, X[window] - x, angle)
    blend(canvas, 0.85 * ramp((1 - np.hypot(u / length, v / width)) * width, 2.5), haematoxylin, eosin, window)
