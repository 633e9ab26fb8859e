"""Crops that look alike without sharing pixels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nuclei.splitting.overlap import Pairs
from nuclei.splitting.windows import FLAT, MAX_MATCHES_PER_HASH, PIXELS_AT_ONCE, check, is_flat

SPECTRUM = 12  # coefficients per side
STEPS = 4096  # the cosines are rounded to this many steps: all sums are of integers, exact on every processor


@dataclass(frozen=True)
class Similar:
    """P pairs of crops that look alike, whether or not they share pixels.

    Attributes:
        first: int64 (P,), rising.
        second: int64 (P,), above `first`.
        distance: int64 (P,), bits of 143 in which their hashes differ.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def near_duplicates(*parts: np.ndarray, distance: int = 10) -> Similar:
    """Find crops that are the same image but not the same pixels (JPEG, rescaling, brightness): a warning, no proof.

    Perceptual hash: signs of the 12x12 lowest DCT coefficients about their median. Flips, rotations and shifts are not
    found, flat crops left out.

    Args:
        *parts: As for `overlapping_pairs`, any H, W >= 12.
        distance: Bits of 143 in which the hashes may differ, 0..20.

    Returns:
        Each pair once, sorted by `first`, then `second`; where more than 64 crops look much alike, not all of their
        pairs.

    Raises:
        InputError: Crops are smaller than 12 pixels.
        ValueError: Arrays of another kind.

    Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".
    """
    parts = tuple(np.asarray(part) for part in parts)
    check(parts, SPECTRUM)
    hashes = [_perceptual_hash(part) for part in parts]
    bits, flat = (np.concatenate(column) for column in zip(*hashes, strict=True))
    rows = np.flatnonzero(~flat)
    bits = bits[rows]
    packed = np.packbits(bits, axis=1)
    alike = []
    # Hashes that differ in at most `distance` bits are equal in at least one of `distance` + 1 bands.
    for band in np.array_split(np.arange(bits.shape[1]), distance + 1):
        key = bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64))
        order = np.lexsort((*packed.T, key))  # alike ones next to each other, for the limit on how far we look
        for step in range(1, 4 * MAX_MATCHES_PER_HASH + 1):
            same = np.flatnonzero(key[order[step:]] == key[order[:-step]])
            if not len(same):
                break
            ends = np.sort(np.stack([order[same], order[same + step]], axis=1), axis=1)
            differ = np.bitwise_count(packed[ends[:, 0]] ^ packed[ends[:, 1]]).sum(1, dtype=np.int64)
            alike.append(np.column_stack([ends, differ])[differ <= distance])
    table = np.unique(np.concatenate(alike), axis=0) if alike else np.zeros((0, 3), np.int64)
    return Similar(rows[table[:, 0]], rows[table[:, 1]], table[:, 2])


def _perceptual_hash(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash crops: bool (N, 143), and which are flat: bool (N,)."""
    rows, columns = (
        np.rint(STEPS * np.cos(np.pi / size * np.outer(np.arange(SPECTRUM), np.arange(size) + 0.5)))
        for size in crops.shape[1:3]
    )
    bits, flat = np.zeros((len(crops), SPECTRUM**2 - 1), bool), np.zeros(len(crops), bool)
    step = max(1, 5 * PIXELS_AT_ONCE // (crops.shape[1] * crops.shape[2]))
    for start in range(0, len(crops), step):
        grey = crops[start : start + step].sum(-1, dtype=np.float64)
        spectrum = (rows @ grey @ columns.T).reshape(len(grey), -1)[:, 1:]  # the first is the brightness
        bits[start : start + step] = spectrum > np.median(spectrum, axis=1, keepdims=True)
        flat[start : start + step] = is_flat(grey, FLAT * crops.shape[-1])
    return bits, flat


def tabulate_near_duplicates(train: np.ndarray, test: np.ndarray, pairs: Pairs, names: np.ndarray) -> pd.DataFrame:
    """List the crops that look alike without sharing pixels.

    Args:
        train: uint8 (N, H, W, C).
        test: uint8 (M, H, W, C).
        pairs: Those that share pixels, of all N + M crops.
        names: Text (N + M,).

    Returns:
        One row per pair: First, Second (names), Bits in which their perceptual hashes differ.
    """
    similar = near_duplicates(train, test)
    shares_pixels = np.isin(similar.first << 32 | similar.second, pairs.first << 32 | pairs.second)
    table = pd.DataFrame({"First": names[similar.first], "Second": names[similar.second], "Bits": similar.distance})
    return table[~shares_pixels]
