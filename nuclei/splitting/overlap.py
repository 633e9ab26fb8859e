"""Crops that share pixels: found by hashed windows, verified pixel by pixel, completed by laying the crops out.

Nothing here looks at labels or names. Crops may be flipped and rotated copies of one another: `d4` is one of the
eight flips and rotations, a code 0..7 as in `nuclei.models.transforms.flip_rotate`: bit 4 swaps rows and columns, then
bit 1 flips the rows and bit 2 the columns; 0 changes nothing.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from nuclei.files import atomic_write
from nuclei.npz import write_npz
from nuclei.splitting.dihedral import COMPOSE, INVERSE, moved_to, turned, turned_shape
from nuclei.splitting.windows import MAX_MATCHES_PER_HASH, Windows, check, fingerprint, is_flat

Table = TypeVar("Table", bound="Pairs | Windows")


@dataclass(frozen=True)
class Pairs:
    """P pairs of crops that share pixels, sorted by `first`, then `second`; each pair once.

    Attributes:
        first: int64 (P,), below `second`.
        second: int64 (P,).
        dy: int32 (P,), pixels, where the top left corner of the second crop, once turned, lies in the first.
        dx: int32 (P,), likewise.
        d4: uint8 (P,), 0..7, what has to be done to the second crop so that it fits.
        area: int64 (P,), pixels that the two share.
    """

    first: np.ndarray
    second: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    d4: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: np.ndarray) -> "Pairs":
        """Choose pairs: `rows` are indices or a mask."""
        return _rows(self, rows)


@dataclass(frozen=True)
class Layout:
    """Where N crops lie, each group of connected crops in another frame, its first crop upright at (0, 0).

    Attributes:
        group: int64 (N,), numbered by first appearance.
        d4: uint8 (N,), what is done to the crop before it is laid down.
        y: int64 (N,), pixels, of its top left corner then.
        x: int64 (N,), likewise.
    """

    group: np.ndarray
    d4: np.ndarray
    y: np.ndarray
    x: np.ndarray


def overlapping_pairs(*parts: np.ndarray, window: int = 8, border: int = 8, threads: int = 2) -> Pairs:
    """Find all pairs of crops that share pixels.

    Exact: what `area` counts is equal in every pixel. That is the whole overlap, whatever its size, or, where that
    isn't equal, the overlap without a `border` on each side, if it is no smaller than a window and not flat.
    Complete: for overlaps of at least 2 `window` x 2 `window` pixels (in crops smaller than 3 `window`, of at least
    (H + `window`) / 2 pixels per side) that are not flat or mirror-symmetric throughout; and down to one pixel between
    crops that other overlaps connect. So what may be missed is a sliver that alone joins two groups.
    Windows with a standard deviation below 4 grey levels in the middle channel are background and join nothing.

    Where identical crops are many, only the first 16 copies enter all their pairs; each further one has a single pair,
    with the first. So do crops that differ in a few pixels but lie in the very same place, and a pattern that many
    different crops hold (a logo) is only compared with 16 others.
    Time and memory grow linearly with the crops and the pairs.

    Args:
        *parts: uint8 (N, H, W, C), one or more (train, test) with the same H, W, C; indices run on through them;
            memory-mapped ones are read in chunks.
        window: Side of the hashed windows, pixels, 4..256; smaller ones find smaller overlaps, in more time and memory.
        border: Pixels along the edges that may differ because each crop was enlarged or compressed by itself; 0: none.
        threads: Of the hashing; the result doesn't depend on them.

    Raises:
        InputError: Crops are smaller than `window`.
        ValueError: Arrays of another kind, or `window` out of range.

    Source: Schleimer et al. 2003, "Winnowing: local algorithms for document fingerprinting", for the selection, in 2D.
    """
    parts = tuple(np.asarray(part) for part in parts)  # views of memory maps: slicing np.memmap itself is slow
    check(parts, window)
    if not 4 <= window <= 256:
        raise ValueError(f"window must be 4 to 256 pixels, got {window}")
    shape = parts[0].shape[1:3]
    crops = [crop for part in parts for crop in part]
    windows, first_copy, copies = fingerprint(parts, window, threads)
    late = np.flatnonzero((copies > 0) & np.isin(np.arange(len(crops)), windows.crop))  # flat crops have no windows
    if len(late):
        windows = _rows(windows, copies[windows.crop] < MAX_MATCHES_PER_HASH)
    verified = _verified(crops, _candidates(windows, shape, window), window, border)
    zeros = np.zeros(len(late), np.int64)
    verified = _merged(verified, _pairs(first_copy[late], late, zeros, zeros, zeros, shape))
    rest = _laid_over(verified, layout(verified, len(crops), shape), copies < MAX_MATCHES_PER_HASH, shape)
    return _merged(verified, _verified(crops, rest, window, border))


def save_pairs(path: Path, pairs: Pairs) -> None:
    """Write the columns of `pairs` to `path`, an .npz."""
    with atomic_write(path) as temporary:
        write_npz(temporary, {field.name: getattr(pairs, field.name) for field in fields(pairs)})


def load_pairs(path: Path) -> Pairs:
    """Read what `save_pairs` wrote."""
    with np.load(path) as columns:
        return Pairs(**columns)


def groups(pairs: Pairs, n: int) -> np.ndarray:
    """Number the groups of crops that pairs connect.

    Args:
        pairs: Of the crops.
        n: Number of crops.

    Returns:
        int64 (n,), numbered by first appearance; single crops are groups too.
    """
    return joined(pairs.first, pairs.second, n)


def joined(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Number the groups of 0..n-1 that the edges `first`-`second`, int (P,), connect: as `groups` does."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, appearance, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(appearance))[inverse]


def layout(pairs: Pairs, n: int, shape: tuple[int, int]) -> Layout:
    """Lay out crops by a spanning tree of their pairs.

    Args:
        pairs: Of the crops.
        n: Number of crops.
        shape: (H, W) of a crop.
    """
    group = groups(pairs, n)
    roots = np.unique(group, return_index=True)[1]
    # One more node, joined to the first crop of each group, lets a single search walk all groups.
    ends = np.concatenate([pairs.first, np.full(len(roots), n)]), np.concatenate([pairs.second, roots])
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(n + 1, n + 1)).tocsr()
    parent = breadth_first_order(graph, n, directed=False)[1][:n].astype(np.int64)
    parent[roots] = roots

    d4, y, x = np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64)
    down = parent[pairs.second] == pairs.first
    child = pairs.second[down]
    d4[child], y[child], x[child] = pairs.d4[down], pairs.dy[down], pairs.dx[down]
    up = parent[pairs.first] == pairs.second
    child, back = pairs.first[up], INVERSE[pairs.d4[up]]
    d4[child] = back
    y[child], x[child] = moved_to(back, -pairs.dy[up], -pairs.dx[up], shape, turned_shape(pairs.d4[up], shape))
    while np.any(parent != parent[parent]):  # each round doubles the length of the path that is already walked
        over = d4[parent]
        moved_y, moved_x = moved_to(over, y, x, turned_shape(d4, shape), shape)
        d4, y, x = COMPOSE[over, d4], y[parent] + moved_y, x[parent] + moved_x
        parent = parent[parent]
    return Layout(group, d4, y, x)


def _rows(table: Table, rows: np.ndarray) -> Table:
    """Choose rows of a dataclass of columns."""
    columns: dict[str, Any] = {field.name: getattr(table, field.name)[rows] for field in fields(table)}
    return type(table)(**columns)


def _candidates(windows: Windows, shape: tuple[int, int], window: int) -> Pairs:
    """Pair crops that hold windows of equal hash; those that agree on the offset come once."""
    order = np.argsort(windows.key, kind="stable")
    key = windows.key[order]
    candidates = _no_pairs(shape)
    for step in range(1, MAX_MATCHES_PER_HASH + 1):
        equal = np.flatnonzero(key[step:] == key[:-step])  # crops come in order: the first index is the smaller one
        if not len(equal):
            break
        a, b = order[equal], order[equal + step]
        apart = windows.crop[a] != windows.crop[b]
        a, b = a[apart], b[apart]
        d4 = COMPOSE[INVERSE[windows.upright[a]], windows.upright[b]]
        y, x = moved_to(d4, windows.y[b], windows.x[b], (window, window), shape)
        new = _pairs(windows.crop[a], windows.crop[b], windows.y[a] - y, windows.x[a] - x, d4, shape)
        candidates = _merged(candidates, new, best=False)
    return candidates


def _laid_over(pairs: Pairs, placed: Layout, take: np.ndarray, shape: tuple[int, int]) -> Pairs:
    """Pair the crops (of those in the mask `take`) that lie over one another in their layout and are not yet paired."""
    rows = np.flatnonzero(take)
    rows = rows[_rank_in_place(placed, rows) < MAX_MATCHES_PER_HASH]
    group, d4, y, x = placed.group[rows], placed.d4[rows], placed.y[rows], placed.x[rows]
    height, width = turned_shape(d4, shape)
    side = max(shape)  # of a bin: what lies over a crop is in its bin or beside it
    bin_y, bin_x = (axis // side - (axis // side).min(initial=0) + 1 for axis in (y, x))  # neighbours stay above 0
    columns = bin_x.max(initial=0) + 2
    bins = (group * (bin_y.max(initial=0) + 2) + bin_y) * columns + bin_x
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    n = len(take)
    known = pairs.first * n + pairs.second
    laid_over = _no_pairs(shape)
    for dy, dx in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        beside = bins + dy * columns + dx
        start, end = np.searchsorted(bins, beside, "left"), np.searchsorted(bins, beside, "right")
        if dy == dx == 0:
            start = np.arange(len(bins)) + 1
        count = end - start
        i = np.repeat(np.arange(len(bins)), count)
        j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + start[i]
        i, j = np.sort(np.stack([order[i], order[j]]), axis=0)
        over = (
            (y[i] < y[j] + height[j]) & (y[j] < y[i] + height[i]) & (x[i] < x[j] + width[j]) & (x[j] < x[i] + width[i])
        )
        over[over] = ~np.isin(rows[i[over]] * n + rows[j[over]], known)
        i, j = i[over], j[over]
        back = INVERSE[d4[i]]
        moved_y, moved_x = moved_to(back, y[j] - y[i], x[j] - x[i], (height[j], width[j]), (height[i], width[i]))
        laid_over = _merged(laid_over, _pairs(rows[i], rows[j], moved_y, moved_x, COMPOSE[back, d4[j]], shape))
    return laid_over


def _rank_in_place(placed: Layout, rows: np.ndarray) -> np.ndarray:
    """Count, for each of `rows`, those before it that lie in the very same place: int (N,)."""
    places = np.stack([placed.group[rows], placed.d4[rows], placed.y[rows], placed.x[rows]])
    order = np.lexsort(places)
    starts = np.append(True, (np.diff(places[:, order]) != 0).any(axis=0))[: len(rows)]
    position = np.arange(len(rows))
    rank = np.empty(len(rows), np.int64)
    rank[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    return rank


def _verified(crops: list[np.ndarray], pairs: Pairs, window: int, border: int) -> Pairs:
    """Return the pairs whose overlap is equal in every pixel, or in all but a border; of two crops the largest."""
    height, width = crops[0].shape[:2] if crops else (0, 0)
    area = np.zeros(len(pairs), np.int64)
    columns = (column.tolist() for column in (pairs.first, pairs.second, pairs.dy, pairs.dx, pairs.d4))
    for row, (first, second, dy, dx, d4) in enumerate(zip(*columns, strict=True)):
        upright, fitted = crops[first], crops[second]
        if d4:
            fitted = turned(fitted, d4)
        shared = upright[max(dy, 0) : dy + fitted.shape[0], max(dx, 0) : dx + fitted.shape[1]]
        fitted = fitted[max(-dy, 0) : height - dy, max(-dx, 0) : width - dx]
        if not (shared == fitted).all():
            inside = slice(border, len(shared) - border), slice(border, shared.shape[1] - border)
            shared, fitted = shared[inside], fitted[inside]
            # What is left must be proof without the border: as large as a window, and not flat.
            if min(shared.shape[:2]) < window or not (shared == fitted).all():
                continue
            if is_flat(shared[..., shared.shape[2] // 2]):
                continue
        area[row] = shared.shape[0] * shared.shape[1]
    return _merged(replace(pairs, area=area)[area > 0])


def _no_pairs(shape: tuple[int, int]) -> Pairs:
    none = np.zeros(0, np.int64)
    return _pairs(none, none, none, none, none, shape)


def _pairs(
    first: np.ndarray, second: np.ndarray, dy: np.ndarray, dx: np.ndarray, d4: np.ndarray, shape: tuple[int, int]
) -> Pairs:
    """Return pairs of crops of `shape` with the area of their overlap."""
    height, width = turned_shape(d4, shape)
    tall = np.minimum(shape[0], dy + height) - np.maximum(dy, 0)
    wide = np.minimum(shape[1], dx + width) - np.maximum(dx, 0)
    return Pairs(
        first.astype(np.int64),
        second.astype(np.int64),
        dy.astype(np.int32),
        dx.astype(np.int32),
        d4.astype(np.uint8),
        tall.astype(np.int64) * wide,
    )


def _merged(*tables: Pairs, best: bool = True) -> Pairs:
    """Put pairs together and sort them, without copies; with `best` only the largest overlap of any two crops."""
    columns = {field.name: np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Pairs)}
    pairs = Pairs(**columns)
    ends = pairs.first << 32 | pairs.second
    # Offset and d4 as one number: offsets stay below 2**20, as no crop is larger.
    fit = ((pairs.dy + (1 << 20)).astype(np.int64) << 21 | pairs.dx + (1 << 20)) << 3 | pairs.d4
    order = np.lexsort((fit, -pairs.area, ends))
    ends, fit = ends[order], fit[order]
    new = np.ones(len(order), bool)
    new[1:] = ends[1:] != ends[:-1]
    if not best:
        new[1:] |= fit[1:] != fit[:-1]
    return pairs[order[new]]
