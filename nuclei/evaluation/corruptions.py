"""What happens to images on other scanners and in other laboratories, done to crops. Nothing here is random."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

LEAST_DENSITY = 0.15  # Macenko et al.: paler pixels are background, whose colour is noise
LEAST_PIXELS = 200  # of tissue; fewer tell no stain
LEAST_ANGLE = 0.15  # radians, half of what is usual between measured stains; below it there is only one stain
MOST_TURN = 0.2  # radians from the common stain: what is farther off is measured on tissue that has not got both
MOST_GROUPS = 100  # measured, the largest ones
FEWEST_CROPS, MOST_CROPS = 16, 32  # of a group that is measured
STRIDE = 3  # pixels: every third one of each third line is measured


@dataclass(frozen=True)
class Corruption:
    """A change of crops.

    Attributes:
        name: Of the kind of change.
        severity: Its unit depends on `name`; see `corruptions`, `restainings` and `robustness.stain_corruptions`.
        apply: Takes and returns uint8 (N, H, W, C), C 3 or 1, and leaves its argument as it is.
    """

    name: str
    severity: float
    apply: Callable[[np.ndarray], np.ndarray]


def corruptions(severities: Mapping[str, Sequence[float]]) -> list[Corruption]:
    """Return the crops as they are ("none", 0), then each corruption at each of its severities.

    Args:
        severities: By name, any of blur (Gaussian, standard deviation in pixels, above 0), jpeg (quality, 1..95), gamma
            (exponent of the grey levels in [0, 1], above 0; more than 1 darkens), resolution (how many times as large
            the pixels become, 1 or more).

    Source: Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
    perturbations"; for pathology Schömig-Markiefka et al. 2021, "Quality control stress test for deep learning-based
    diagnostic model in digital pathology".
    """
    changes = {
        "blur": lambda sigma: partial(blur, sigma=sigma),
        "jpeg": lambda quality: partial(compress, quality=int(quality)),
        "gamma": lambda gamma: partial(change_gamma, gamma=gamma),
        "resolution": lambda factor: partial(lose_resolution, factor=factor),
    }
    return [Corruption("none", 0, np.array)] + [
        Corruption(name, severity, changes[name](severity))
        for name, values in severities.items()
        for severity in values
    ]


def blur(crops: np.ndarray, sigma: float) -> np.ndarray:
    """Blur each channel: out of focus.

    Args:
        crops: uint8 (N, H, W, C).
        sigma: Standard deviation of the Gaussian, pixels, above 0.

    Returns:
        uint8 (N, H, W, C).
    """
    blurred = gaussian_filter(crops.astype(np.float32), (0, sigma, sigma, 0), mode="nearest")
    return _levels(blurred)


def compress(crops: np.ndarray, quality: int) -> np.ndarray:
    """Store each crop as JPEG and read it again; colour has half the resolution, as usual.

    Args:
        crops: uint8 (N, H, W, C).
        quality: 1..95.

    Returns:
        uint8 (N, H, W, C).
    """
    compressed = np.empty_like(crops)
    for crop, result in zip(crops, compressed, strict=True):
        file = io.BytesIO()
        _image(crop).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(file) as image:
            result[...] = np.asarray(image).reshape(crop.shape)
    return compressed


def change_gamma(crops: np.ndarray, gamma: float) -> np.ndarray:
    """Raise the grey levels, as shares of the largest, to a power: another display curve.

    Args:
        crops: uint8 (N, H, W, C).
        gamma: The power, above 0; more than 1 darkens.

    Returns:
        uint8 (N, H, W, C).
    """
    return _levels(255 * (np.arange(256) / 255) ** gamma)[crops]


def lose_resolution(crops: np.ndarray, factor: float) -> np.ndarray:
    """Make pixels larger by averaging, then enlarge the crop to its old size (bicubic).

    Args:
        crops: uint8 (N, H, W, C).
        factor: How many times as large, 1 or more.

    Returns:
        uint8 (N, H, W, C).
    """
    height, width = crops.shape[1:3]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    result = np.empty_like(crops)
    for crop, coarse in zip(crops, result, strict=True):
        small = _image(crop).resize(size, Image.Resampling.BOX)
        coarse[...] = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).reshape(crop.shape)
    return result


def restainings(crops: np.ndarray, groups: np.ndarray, quantiles: Sequence[float]) -> list[Corruption]:
    """Return corruptions "stain": the crops as if stained as those of another group are.

    The stains of each group are measured, and those of all groups together; the groups are sorted by how far theirs are
    from these. A corruption turns the common stains into those of the group at a quantile of that order. Groups that
    seem to be stained in quite another way are left out: those measured on one kind of tissue look so.

    Args:
        crops: uint8 (N, H, W, C), may be memory-mapped.
        groups: (N,), any values that can be sorted: patients, slides or tiles.
        quantiles: In [0, 1], the severities; 1 is the most unusual group.

    Returns:
        One corruption per quantile; none where fewer than two groups have 16 crops or more and tissue of both stains.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    largest = [number for number in np.argsort(-sizes, kind="stable")[:MOST_GROUPS] if sizes[number] >= FEWEST_CROPS]
    rows = [np.flatnonzero(group == number) for number in largest]
    samples = [crops[row[:: -(-len(row) // MOST_CROPS)], ::STRIDE, ::STRIDE] for row in rows]
    measured = [stains for stains in map(stain_vectors, samples) if stains is not None]
    common = stain_vectors(np.concatenate(samples)) if measured else None
    measured = [stains for stains in measured if common is not None and _angles(stains, common).max() < MOST_TURN]
    if common is None or len(measured) < 2:
        return []
    measured.sort(key=lambda stains: float(((stains - common) ** 2).sum()))
    return [
        Corruption("stain", quantile, partial(restain, source=common, target=measured[_position(quantile, measured)]))
        for quantile in quantiles
    ]


def stain_vectors(crops: np.ndarray) -> np.ndarray | None:
    """Measure haematoxylin and eosin: the optical densities of a strongly stained pixel.

    Args:
        crops: uint8 (N, H, W, C).

    Returns:
        Densities (natural logarithm) per stain and channel, float64 (2, 3), of grey crops (1, 1); haematoxylin, which
        takes more red, first: directions by Macenko's method, lengths by the 99th percentile of the pixels. None where
        tissue or a second stain is lacking.

    Source: Macenko et al. 2009, "A method for normalizing histology slides for quantitative analysis".
    """
    density = _densities()[crops.reshape(-1, crops.shape[-1])].astype(np.float64)
    density = density[(density > LEAST_DENSITY).all(axis=1)]
    if len(density) < LEAST_PIXELS:
        return None
    if density.shape[1] == 1:
        return np.percentile(density, 99).reshape(1, 1)
    plane = np.linalg.eigh(np.cov(density, rowvar=False))[1][:, :0:-1]  # the two directions of largest variance
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    along, across = (density @ plane).T
    angles = np.arctan2(across, along)
    low, high = np.percentile(angles, (1, 99))
    if high - low < LEAST_ANGLE:
        return None
    stains = np.array([plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)])
    stains = stains[np.argsort(-stains[:, 0], kind="stable")]
    amounts = np.linalg.lstsq(stains.T, density.T, rcond=None)[0]
    return stains * np.percentile(amounts, 99, axis=1)[:, None].clip(min=LEAST_DENSITY)


def restain(crops: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Turn each stain into another, in its amount at every pixel; what is neither stain stays.

    Args:
        crops: uint8 (N, H, W, C).
        source: As of `stain_vectors`, what the crops are stained with.
        target: As of `stain_vectors`, what they are to be stained with.

    Returns:
        uint8 (N, H, W, C).
    """
    mixing = np.linalg.solve(_completed(source), _completed(target)).astype(np.float32)
    return _levels(256 * np.exp(-(_densities()[crops] @ mixing)) - 1)


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angle between each two rows, radians."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.arccos(((first * second).sum(axis=1) / lengths).clip(-1, 1))


def _completed(stains: np.ndarray) -> np.ndarray:
    """Add the direction of what is neither stain, a unit vector, to (2, 3); grey ones have no such thing."""
    if len(stains) == 1:
        return stains
    rest = np.cross(stains[0], stains[1])
    return np.vstack([stains, rest / np.linalg.norm(rest)])


def _densities() -> np.ndarray:
    """Return the optical density of each grey level, float32 (256,): 0 for white, and finite for black."""
    return -np.log(np.arange(1, 257, dtype=np.float32) / 256)


def _position(quantile: float, values: Sequence[np.ndarray]) -> int:
    return round(quantile * (len(values) - 1))


def _image(crop: np.ndarray) -> Image.Image:
    return Image.fromarray(crop.squeeze(-1) if crop.shape[-1] == 1 else crop)


def _levels(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
