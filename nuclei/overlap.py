"""Crops that share pixels: found by hashed windows, verified pixel by pixel, completed by laying the crops out.

Nothing here looks at labels or names. Crops may be flipped and turned copies of one another. A turn is a code 0..7,
as in `nuclei.crops.turn`: bit 4 swaps rows and columns, then bit 1 flips the rows and bit 2 the columns; 0 changes
nothing.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from nuclei.errors import InputError
from nuclei.files import atomic_write

FLAT = 4.0  # grey levels: windows with a lower standard deviation are background, which repeats
REACH = 16  # a window is compared with this many others of the same hash; more of them would be a quadratic number
CHUNK = 160_000  # pixels hashed at once: the intermediate arrays stay in the cache
NEVER = np.uint32(2**32 - 1)  # the hash of windows that are not looked at


@dataclass(frozen=True)
class Pairs:
    """P pairs of crops that share pixels, sorted by `first`, then `second`; each pair once.

    first, second: int64 (P,), first < second
    dy, dx: int32 (P,), pixels, where the top left corner of the second crop, once turned, lies in the first
    turn: uint8 (P,), 0..7, what has to be done to the second crop so that it fits
    area: int64 (P,), pixels, how many the two share
    """

    first: np.ndarray
    second: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    turn: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: np.ndarray) -> "Pairs":
        """Keep some of the pairs: `rows` are indices or a mask."""
        return _rows(self, rows)


@dataclass(frozen=True)
class Layout:
    """Where N crops lie: each group of connected crops in a frame of its own, its first crop upright at (0, 0).

    group: int64 (N,), numbered by first appearance
    turn: uint8 (N,), what is done to the crop; then its top left corner lies at y, x: int64 (N,), pixels
    """

    group: np.ndarray
    turn: np.ndarray
    y: np.ndarray
    x: np.ndarray


def overlapping_pairs(*parts: np.ndarray, window: int = 8, border: int = 8, threads: int = 2) -> Pairs:
    """Find all pairs of crops that share pixels, as `Pairs`; indices run on through `parts`.

    parts: uint8, (N, H, W, C), one or more (train, test) with the same H, W, C; memory-mapped ones are read in chunks
    window: side of the hashed windows, pixels, 4..256; smaller ones find smaller overlaps, in more time and memory
    border: pixels along the edges that may differ because each crop was enlarged or compressed on its own; 0: none may
    threads: of the hashing; the result doesn't depend on them

    Exact: what `area` counts is equal in every pixel. That is the whole overlap, whatever its size, or, where that
    isn't equal, the overlap without a `border` on each side, if it is no smaller than a window and not flat.
    Complete: for overlaps of at least 2 `window` x 2 `window` pixels (in crops smaller than 3 `window`, of at least
    (H + `window`) / 2 pixels a side) that are not flat or mirror-symmetric throughout; and down to one pixel between
    crops that other overlaps connect. So what may be missed is a sliver that alone joins two groups.
    Windows with a standard deviation below 4 grey levels in the middle channel are background and join nothing.

    Where identical crops are many, only the first 16 copies enter all their pairs; each further one has a single pair,
    with the first. Likewise a pattern that many different crops hold (a logo) is only compared with 16 others.
    Time and memory grow linearly with the crops and the pairs.

    Raises InputError where crops are smaller than `window`, ValueError for arrays of another kind.
    Source of the selection: Schleimer et al. 2003, "Winnowing: local algorithms for document fingerprinting", in 2D.
    """
    parts = tuple(np.asarray(part) for part in parts)  # views of memory maps: slicing np.memmap itself is slow
    _check(parts, window)
    if not 4 <= window <= 256:
        raise ValueError(f"window must be 4 to 256 pixels, got {window}")
    shape = parts[0].shape[1:3]
    crops = [crop for part in parts for crop in part]
    windows, first_copy, copies = _fingerprint(parts, window, threads)
    late = np.flatnonzero((copies > 0) & np.isin(np.arange(len(crops)), windows.crop))  # flat crops have no windows
    if len(late):
        windows = _rows(windows, copies[windows.crop] < REACH)
    found = _verified(crops, _candidates(windows, shape, window), window, border)
    zeros = np.zeros(len(late), np.int64)
    found = _merged(found, _pairs(first_copy[late], late, zeros, zeros, zeros, shape))
    rest = _laid_over(found, layout(found, len(crops), shape), copies < REACH, shape)
    return _merged(found, _verified(crops, rest, window, border))


def save_pairs(path: Path, pairs: Pairs) -> None:
    """Write the columns of `pairs` as an .npz."""
    with atomic_write(path) as temporary:
        np.savez(temporary, **{field.name: getattr(pairs, field.name) for field in fields(pairs)})


def load_pairs(path: Path) -> Pairs:
    """Read what `save_pairs` wrote."""
    with np.load(path) as columns:
        return Pairs(**columns)


def groups(pairs: Pairs, n: int) -> np.ndarray:
    """Number the groups of crops that pairs connect: int64 (n,), by first appearance; single crops are groups too."""
    return joined(pairs.first, pairs.second, n)


def joined(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Number the groups of 0..n-1 that the edges `first`-`second`, int (P,), connect: as `groups` does."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, appearance, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(appearance))[inverse]


def layout(pairs: Pairs, n: int, shape: tuple[int, int]) -> Layout:
    """Lay out `n` crops of `shape` (H, W) by a spanning tree of their pairs."""
    group = groups(pairs, n)
    roots = np.unique(group, return_index=True)[1]
    # One more node, joined to the first crop of each group, lets a single search walk all groups.
    ends = np.concatenate([pairs.first, np.full(len(roots), n)]), np.concatenate([pairs.second, roots])
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(n + 1, n + 1)).tocsr()
    parent = breadth_first_order(graph, n, directed=False)[1][:n].astype(np.int64)
    parent[roots] = roots

    turn, y, x = np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64)
    down = parent[pairs.second] == pairs.first
    child = pairs.second[down]
    turn[child], y[child], x[child] = pairs.turn[down], pairs.dy[down], pairs.dx[down]
    up = parent[pairs.first] == pairs.second
    child, back = pairs.first[up], INVERSE[pairs.turn[up]]
    turn[child] = back
    y[child], x[child] = _placed(back, -pairs.dy[up], -pairs.dx[up], shape, _turned_shape(pairs.turn[up], shape))
    while np.any(parent != parent[parent]):  # each round doubles the length of the path that is already walked
        over = turn[parent]
        moved_y, moved_x = _placed(over, y, x, _turned_shape(turn, shape), shape)
        turn, y, x = COMPOSE[over, turn], y[parent] + moved_y, x[parent] + moved_x
        parent = parent[parent]
    return Layout(group, turn, y, x)


def turned(crop: np.ndarray, turn: int) -> np.ndarray:
    """Flip and turn `crop` (H, W, ...): a view, (W, H, ...) where `turn` swaps rows and columns."""
    if turn & 4:
        crop = crop.swapaxes(0, 1)
    if turn & 1:
        crop = crop[::-1]
    if turn & 2:
        crop = crop[:, ::-1]
    return crop


@dataclass(frozen=True)
class Similar:
    """Pairs of crops that look alike, whether or not they share pixels: int64 (P,) each; distance in bits of 143."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def near_duplicates(*parts: np.ndarray, distance: int = 10) -> Similar:
    """Find crops that are the same picture but not the same pixels (JPEG, rescaling, brightness): a warning, no proof.

    parts: as for `overlapping_pairs`, any H, W >= 12; distance: bits of 143 in which the hashes may differ, 0..20

    Perceptual hash: signs of the 12x12 lowest DCT coefficients about their median (after Zauner 2010, "Implementation
    and benchmarking of perceptual image hash functions"). Flips, turns and shifts are not found, flat crops left out.
    Pairs come once, sorted by `first`, then `second`; where more than 64 crops look much alike, not all of their pairs.
    Raises InputError where crops are smaller than 12 pixels, ValueError for arrays of another kind.
    """
    parts = tuple(np.asarray(part) for part in parts)
    _check(parts, SPECTRUM)
    bits, flat = (np.concatenate(each) for each in zip(*(_perceptual_hash(part) for part in parts), strict=True))
    rows = np.flatnonzero(~flat)
    bits = bits[rows]
    packed = np.packbits(bits, axis=1)
    found = []
    # Hashes that differ in at most `distance` bits are equal in at least one of `distance` + 1 bands.
    for band in np.array_split(np.arange(bits.shape[1]), distance + 1):
        key = bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64))
        order = np.lexsort((*packed.T, key))  # alike ones next to each other, for the limit on how far we look
        for step in range(1, REACH * 4 + 1):
            same = np.flatnonzero(key[order[step:]] == key[order[:-step]])
            if not len(same):
                break
            ends = np.sort(np.stack([order[same], order[same + step]], axis=1), axis=1)
            differ = np.bitwise_count(packed[ends[:, 0]] ^ packed[ends[:, 1]]).sum(1, dtype=np.int64)
            found.append(np.column_stack([ends, differ])[differ <= distance])
    table = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 3), np.int64)
    return Similar(rows[table[:, 0]], rows[table[:, 1]], table[:, 2])


SPECTRUM = 12  # coefficients a side


def _perceptual_hash(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash crops: bool (N, 143), and which are flat: bool (N,)."""
    rows, columns = (
        np.cos(np.pi / size * np.outer(np.arange(SPECTRUM), np.arange(size) + 0.5)).astype(np.float32)
        for size in crops.shape[1:3]
    )
    bits, flat = np.zeros((len(crops), SPECTRUM**2 - 1), bool), np.zeros(len(crops), bool)
    step = max(1, 5 * CHUNK // (crops.shape[1] * crops.shape[2]))
    for start in range(0, len(crops), step):
        grey = crops[start : start + step].mean(-1, dtype=np.float32)
        spectrum = (rows @ grey @ columns.T).reshape(len(grey), -1)[:, 1:]  # the first is the brightness
        bits[start : start + step] = spectrum > np.median(spectrum, axis=1, keepdims=True)
        flat[start : start + step] = grey.std(axis=(1, 2)) < FLAT
    return bits, flat


def _rows(table, rows: np.ndarray):
    """Keep some rows of a dataclass of columns."""
    return type(table)(*(getattr(table, field.name)[rows] for field in fields(table)))


def _check(parts: tuple[np.ndarray, ...], least: int) -> None:
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


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What turns make of each other, of themselves, and which turn brings the corners `top` and `right` to the top."""
    square = np.arange(4).reshape(2, 2)
    code = {turned(square, turn).tobytes(): turn for turn in range(8)}
    compose = np.array([[code[turned(turned(square, b), a).tobytes()] for b in range(8)] for a in range(8)], np.uint8)
    upright = np.zeros((4, 4), np.uint8)
    for turn in range(8):
        upright[tuple(turned(square, turn)[0])] = turn
    return compose, np.argmin(compose, axis=1).astype(np.uint8), upright


COMPOSE, INVERSE, UPRIGHT = _tables()  # COMPOSE[a, b]: first b, then a


def _turned_shape(turn: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    swap = turn & 4 > 0
    return np.where(swap, shape[1], shape[0]), np.where(swap, shape[0], shape[1])


def _placed(turn, y, x, size, frame) -> tuple[np.ndarray, np.ndarray]:
    """Tell where the corner of a rectangle `size` at (y, x) comes to lie when its `frame` (height, width) is turned."""
    swap = turn & 4 > 0
    y, x = np.where(swap, x, y), np.where(swap, y, x)
    height, width = (np.where(swap, frame[i] - size[i], frame[j] - size[j]) for i, j in ((1, 0), (0, 1)))
    return np.where(turn & 1 > 0, height - y, y), np.where(turn & 2 > 0, width - x, x)


@dataclass(frozen=True)
class _Windows:
    """The selected windows, in the order of their crops: key uint64, crop int64, y and x int32, upright uint8, (M,).

    key: hash of the content that is the same for all eight turns
    upright: the turn that brings the content into the position common to all eight
    """

    key: np.ndarray
    crop: np.ndarray
    y: np.ndarray
    x: np.ndarray
    upright: np.ndarray


def _fingerprint(parts: tuple[np.ndarray, ...], window: int, threads: int) -> tuple[_Windows, np.ndarray, np.ndarray]:
    """Select windows. Also tells for each crop (int64, (N,)) its first copy, and how many copies come before it."""
    height, width = parts[0].shape[1:3]
    step = max(1, CHUNK // (height * width))
    chunks = [part[start : start + step] for part in parts for start in range(0, len(part), step)]
    starts = np.cumsum([0, *map(len, chunks)])
    with ThreadPoolExecutor(threads) as pool:
        hashed = list(pool.map(lambda chunk: (_selected(chunk, window), _digests(chunk)), chunks))
    if not hashed:
        return _Windows(*(np.zeros(0, np.int64) for _ in range(5))), np.zeros(0, np.int64), np.zeros(0, np.int64)
    digests = np.concatenate([digest for _, digest in hashed])
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    copies = np.empty(len(order), np.int64)
    copies[order] = np.arange(len(order)) - np.searchsorted(inverse[order], inverse[order])
    columns = [np.concatenate(column) for column in zip(*(windows for windows, _ in hashed), strict=True)]
    columns[1] += np.repeat(starts[:-1], [len(windows[0]) for windows, _ in hashed])
    return _Windows(*columns), first[inverse], copies


def _digests(crops: np.ndarray) -> np.ndarray:
    digests = (hashlib.blake2b(np.ascontiguousarray(crop), digest_size=16).digest() for crop in crops)
    return np.array([np.frombuffer(digest, "V16")[0] for digest in digests], "V16")


def _selected(crops: np.ndarray, window: int) -> tuple[np.ndarray, ...]:
    """Hash every window of a few crops and select some: the columns of `_Windows`.

    A window is selected where it has the smallest hash of some square of windows. Two crops that share a whole square
    select the same window in it. Flat windows are never selected, nor symmetric ones: those could not tell the turn.
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
    # Flips and turns exchange the two diagonals or leave them: what is symmetric in them is the same for all eight.
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
        total, offset, power = None, 0, values  # power: sums of 1, 2, 4, ... neighbours
        for bit in range(size.bit_length()):
            if size >> bit & 1:
                part = power[offset : offset + length]
                total = part if total is None else total + part
                offset += 1 << bit
            if size >> bit > 1:
                power = power[: -(1 << bit)] + power[1 << bit :]
        values = total.swapaxes(0, 1)
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


def _candidates(windows: _Windows, shape: tuple[int, int], window: int) -> Pairs:
    """Pair crops that hold windows of equal hash; those that agree on the offset come once."""
    order = np.argsort(windows.key, kind="stable")
    key = windows.key[order]
    found = _pairs(*np.zeros((5, 0), np.int64), shape)
    for step in range(1, REACH + 1):
        equal = np.flatnonzero(key[step:] == key[:-step])  # crops come in order: the first index is the smaller one
        if not len(equal):
            break
        a, b = order[equal], order[equal + step]
        apart = windows.crop[a] != windows.crop[b]
        a, b = a[apart], b[apart]
        turn = COMPOSE[INVERSE[windows.upright[a]], windows.upright[b]]
        y, x = _placed(turn, windows.y[b], windows.x[b], (window, window), shape)
        new = _pairs(windows.crop[a], windows.crop[b], windows.y[a] - y, windows.x[a] - x, turn, shape)
        found = _merged(found, new, best=False)
    return found


def _laid_over(pairs: Pairs, placed: Layout, take: np.ndarray, shape: tuple[int, int]) -> Pairs:
    """Pair the crops (of those in the mask `take`) that lie over one another in their layout and are not yet paired."""
    rows = np.flatnonzero(take)
    group, turn, y, x = placed.group[rows], placed.turn[rows], placed.y[rows], placed.x[rows]
    height, width = _turned_shape(turn, shape)
    cell = max(shape)
    grid_y, grid_x = (axis // cell - (axis // cell).min(initial=0) + 1 for axis in (y, x))  # neighbours stay above 0
    columns = grid_x.max(initial=0) + 2
    where = (group * (grid_y.max(initial=0) + 2) + grid_y) * columns + grid_x
    order = np.argsort(where, kind="stable")
    cells = where[order]
    n = len(take)
    known = pairs.first * n + pairs.second
    found = _pairs(*np.zeros((5, 0), np.int64), shape)
    for dy, dx in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        start, end = (np.searchsorted(cells, cells + dy * columns + dx, side) for side in ("left", "right"))
        if dy == dx == 0:
            start = np.arange(len(cells)) + 1
        count = end - start
        i = np.repeat(np.arange(len(cells)), count)
        j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + start[i]
        i, j = np.sort(np.stack([order[i], order[j]]), axis=0)
        over = (
            (y[i] < y[j] + height[j]) & (y[j] < y[i] + height[i]) & (x[i] < x[j] + width[j]) & (x[j] < x[i] + width[i])
        )
        over[over] = ~np.isin(rows[i[over]] * n + rows[j[over]], known)
        i, j = i[over], j[over]
        back = INVERSE[turn[i]]
        at = _placed(back, y[j] - y[i], x[j] - x[i], (height[j], width[j]), (height[i], width[i]))
        found = _merged(found, _pairs(rows[i], rows[j], *at, COMPOSE[back, turn[j]], shape))
    return found


def _verified(crops: list[np.ndarray], pairs: Pairs, window: int, border: int) -> Pairs:
    """Keep the pairs whose overlap is equal in every pixel, or in all but a border; of two crops the largest."""
    height, width = crops[0].shape[:2] if crops else (0, 0)
    area = np.zeros(len(pairs), np.int64)
    columns = (column.tolist() for column in (pairs.first, pairs.second, pairs.dy, pairs.dx, pairs.turn))
    for row, (first, second, dy, dx, turn) in enumerate(zip(*columns, strict=True)):
        one, other = crops[first], crops[second]
        if turn:
            other = turned(other, turn)
        one = one[max(dy, 0) : dy + other.shape[0], max(dx, 0) : dx + other.shape[1]]
        other = other[max(-dy, 0) : height - dy, max(-dx, 0) : width - dx]
        if not (one == other).all():
            one, other = (each[border : len(each) - border, border : each.shape[1] - border] for each in (one, other))
            # What is left must be proof on its own: as large as a window, and not flat.
            if min(one.shape[:2]) < window or not (one == other).all() or one[..., one.shape[2] // 2].std() < FLAT:
                continue
        area[row] = one.shape[0] * one.shape[1]
    return _merged(replace(pairs, area=area)[area > 0])


def _pairs(first, second, dy, dx, turn, shape: tuple[int, int]) -> Pairs:
    height, width = _turned_shape(turn, shape)
    tall = np.minimum(shape[0], dy + height) - np.maximum(dy, 0)
    wide = np.minimum(shape[1], dx + width) - np.maximum(dx, 0)
    return Pairs(
        first.astype(np.int64),
        second.astype(np.int64),
        dy.astype(np.int32),
        dx.astype(np.int32),
        turn.astype(np.uint8),
        tall.astype(np.int64) * wide,
    )


def _merged(*several: Pairs, best: bool = True) -> Pairs:
    """Put pairs together and sort them, without copies; with `best` only the largest overlap of any two crops."""
    pairs = Pairs(*(np.concatenate([getattr(each, field.name) for each in several]) for field in fields(Pairs)))
    ends = pairs.first << 32 | pairs.second
    # One number for the place: offsets stay below 2**20, as no crop is larger.
    place = ((pairs.dy + (1 << 20)).astype(np.int64) << 21 | pairs.dx + (1 << 20)) << 3 | pairs.turn
    order = np.lexsort((place, -pairs.area, ends))
    ends, place = ends[order], place[order]
    new = np.ones(len(order), bool)
    new[1:] = ends[1:] != ends[:-1]
    if not best:
        new[1:] |= place[1:] != place[:-1]
    return pairs[order[new]]
