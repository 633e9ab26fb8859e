"""Windows of crops that are compared, and their hashes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np

from nuclei.errors import InputError
from nuclei.splitting.dihedral import UPRIGHT

FLAT = 4.0  # grey levels: windows with a lower standard deviation are background, which repeats
MAX_MATCHES_PER_HASH = 16  # others that a window is compared with; all of them would be a quadratic number
PIXELS_AT_ONCE = 160_000  # that are hashed: the intermediate arrays stay in the cache
NEVER = np.uint32(2**32 - 1)  # the hash of windows that are not looked at


def check(parts: tuple[np.ndarray, ...], least: int) -> None:
    """Look whether crops can be compared.

    Args:
        parts: One or more, expected uint8 (N, H, W, C) with the same H, W, C.
        least: Pixels per side that they need.

    Raises:
        InputError: They are smaller.
        ValueError: They are of another kind.
    """
    if not parts or any(
        part.ndim != 4 or part.dtype != np.uint8 or part.shape[1:] != parts[0].shape[1:] for part in parts
    ):
        raise ValueError("crops must be uint8 arrays (N, H, W, C) with the same H, W, C")
    height, width = parts[0].shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"crops of {width}x{height} pixels are too small: finding crops that share pixels needs at least "
            f"{least}x{least}; give larger crops or a smaller window"
        )


def is_flat(grey: np.ndarray, deviation: float = FLAT) -> np.ndarray:
    """Tell which images are background.

    In sums of integers, which are exact in any order: a rounded mean would put the limit itself on either side.

    Args:
        grey: Integer values (..., H, W).
        deviation: Standard deviation below which an image is flat.

    Returns:
        bool (...).
    """
    values = grey.reshape(*grey.shape[:-2], -1).astype(np.float64)
    count = values.shape[-1]
    return count * np.square(values).sum(-1) - np.square(values.sum(-1)) < (count * deviation) ** 2


@dataclass(frozen=True)
class Windows:
    """M selected windows, in the order of their crops.

    Attributes:
        key: uint64 (M,), hash of the content that is the same for all eight turns.
        crop: int64 (M,).
        y: int32 (M,), pixels, of the top left corner in the crop.
        x: int32 (M,), likewise.
        upright: uint8 (M,), the d4 that brings the content into the position common to all eight.
    """

    key: np.ndarray
    crop: np.ndarray
    y: np.ndarray
    x: np.ndarray
    upright: np.ndarray


def fingerprint(parts: tuple[np.ndarray, ...], window: int, threads: int) -> tuple[Windows, np.ndarray, np.ndarray]:
    """Select windows, and find identical crops.

    Args:
        parts: uint8 (N, H, W, C) each.
        window: Side of a window, pixels.
        threads: Of the hashing.

    Returns:
        The windows; for each crop, its first copy, int64 (N,), and how many copies come before it, int64 (N,).
    """
    height, width = parts[0].shape[1:3]
    step = max(1, PIXELS_AT_ONCE // (height * width))
    chunks = [part[start : start + step] for part in parts for start in range(0, len(part), step)]
    starts = np.cumsum([0, *map(len, chunks)])
    with ThreadPoolExecutor(threads) as pool:
        hashed = list(pool.map(lambda chunk: (_selected(chunk, window), _digests(chunk)), chunks))
    if not hashed:
        return Windows(*(np.zeros(0, np.int64) for _ in range(5))), np.zeros(0, np.int64), np.zeros(0, np.int64)
    digests = np.concatenate([digest for _, digest in hashed])
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    copies = np.empty(len(order), np.int64)
    copies[order] = np.arange(len(order)) - np.searchsorted(inverse[order], inverse[order])
    columns = [np.concatenate(column) for column in zip(*(windows for windows, _ in hashed), strict=True)]
    columns[1] += np.repeat(starts[:-1], [len(windows[0]) for windows, _ in hashed])
    return Windows(*columns), first[inverse], copies


def _digests(crops: np.ndarray) -> np.ndarray:
    digests = (hashlib.blake2b(np.ascontiguousarray(crop).data, digest_size=16).digest() for crop in crops)
    return np.array([np.frombuffer(digest, "V16")[0] for digest in digests], "V16")


def _selected(crops: np.ndarray, window: int) -> tuple[np.ndarray, ...]:
    """Hash every window of a few crops and select a part of them: the columns of `Windows`.

    A window is selected where it has the smallest hash of a square of windows. Two crops that share a whole square
    select the same window in it. Flat windows are never selected, nor symmetric ones: those could not tell the d4.
    """
    # Crops last: all shifts below are slices of leading axes, each a run of contiguous memory.
    pixels = np.ascontiguousarray(crops.transpose(1, 2, 3, 0))
    channels = [pixels[:, :, channel].astype(np.uint32) for channel in range(pixels.shape[2])]
    value = _mixed(reduce(lambda total, channel: total * np.uint32(0x01000193) + channel, channels))
    # A pixel is hashed with its eight neighbours, in a way that knows no direction.
    beside = value[:-2] + value[2:]
    cross = beside[:, 1:-1] + value[1:-1, :-2] + value[1:-1, 2:]
    local = _mixed(
        value[1:-1, 1:-1] + cross * np.uint32(0x9E3779B1) + (beside[:, :-2] + beside[:, 2:]) * np.uint32(0x85EBCA77)
    )
    side = (window - 2) // 2
    quarter = _box(local, side)
    height, width = (size - window + 1 for size in crops.shape[1:3])
    far = window - 2 - side
    corner = [quarter[y : y + height, x : x + width] for y in (0, far) for x in (0, far)]
    # Flips and rotations exchange the two diagonals or leave them: what is symmetric in them is the same for all eight.
    falling, rising = corner[0] + corner[3], corner[1] + corner[2]
    code = _mixed(falling * rising)
    green = channels[len(channels) // 2]
    mean, square = (_box(each, window).astype(np.float32) / window**2 for each in (green, green * green))
    skip = square - mean * mean < FLAT**2
    for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        skip |= corner[a] == corner[b]
    code[skip] = NEVER

    block = min(window + 1, (min(height, width) + 1) // 2)  # overlaps of 2 `window` hold a whole square of windows
    least = _sliding(np.minimum, code, block)
    border = (block - 1, block - 1)
    least = _sliding(np.maximum, np.pad(least, (border, border, (0, 0))), block)
    y, x, crop = np.nonzero((code == least) & (code != NEVER))
    order = np.argsort(crop, kind="stable")
    y, x, crop = y[order], x[order], crop[order]
    corners = np.stack([each[y, x, crop] for each in corner])
    top = corners.argmax(0)
    across, down = (np.take_along_axis(corners, (top ^ bit)[None], 0)[0] for bit in (1, 2))
    upright = UPRIGHT[top, np.where(across > down, top ^ 1, top ^ 2)]
    key = code[y, x, crop].astype(np.uint64) << np.uint64(32) | (falling[y, x, crop] + rising[y, x, crop])
    return key, crop, y.astype(np.int32), x.astype(np.int32), upright


def _mixed(value: np.ndarray) -> np.ndarray:
    """Scramble uint32 values, one to one (lowbias32, Wellons 2018)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = (value ^ value >> np.uint32(shift)) * np.uint32(factor)
    value ^= value >> np.uint32(16)
    return value


def _box(values: np.ndarray, size: int) -> np.ndarray:
    """Sum the `size` x `size` values right of and below each, modulo 2**32: (H, W, N) to (H-size+1, W-size+1, N)."""
    for _ in range(2):
        length = len(values) - size + 1
        sums, offset, power = [], 0, values  # power: sums of 1, 2, 4, ... neighbours
        for bit in range(size.bit_length()):
            if size >> bit & 1:
                sums.append(power[offset : offset + length])
                offset += 1 << bit
            if size >> bit > 1:
                power = power[: -(1 << bit)] + power[1 << bit :]
        values = reduce(np.add, sums).swapaxes(0, 1)
    return values


def _sliding(extreme: np.ufunc, values: np.ndarray, size: int) -> np.ndarray:
    """Take the extreme of the `size` x `size` values below and right of each one: shapes as for `_box`."""
    for _ in range(2):
        done = 1
        while done < size:
            step = min(done, size - done)
            values = extreme(values[:-step], values[step:])
            done += step
        values = values.swapaxes(0, 1)
    return values
