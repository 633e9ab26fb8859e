"""The eight flips and rotations of a crop, and what they do to positions."""

import numpy as np


def turned(crop: np.ndarray, d4: int) -> np.ndarray:
    """Flip and rotate a crop.

    Args:
        crop: (H, W, ...).
        d4: 0..7, see `nuclei.splitting.overlap`.

    Returns:
        A view of it, (W, H, ...) where `d4` swaps rows and columns.
    """
    if d4 & 4:
        crop = crop.swapaxes(0, 1)
    if d4 & 1:
        crop = crop[::-1]
    if d4 & 2:
        crop = crop[:, ::-1]
    return crop


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what two codes make one after another, which code undoes each, and which brings two corners to the top."""
    square = np.arange(4).reshape(2, 2)
    code = {turned(square, d4).tobytes(): d4 for d4 in range(8)}
    compose = np.array([[code[turned(turned(square, b), a).tobytes()] for b in range(8)] for a in range(8)], np.uint8)
    upright = np.zeros((4, 4), np.uint8)
    for d4 in range(8):
        upright[tuple(turned(square, d4)[0])] = d4
    return compose, np.argmin(compose, axis=1).astype(np.uint8), upright


COMPOSE, INVERSE, UPRIGHT = _tables()  # COMPOSE[a, b]: first b, then a


Length = int | np.ndarray  # pixels: of one rectangle, or int (N,) of many


def turned_shape(d4: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the heights and the widths, int (N,), of crops of `shape` (H, W) after `d4`, uint8 (N,)."""
    swap = d4 & 4 > 0
    return np.where(swap, shape[1], shape[0]), np.where(swap, shape[0], shape[1])


def moved_to(
    d4: np.ndarray, y: np.ndarray, x: np.ndarray, size: tuple[Length, Length], frame: tuple[Length, Length]
) -> tuple[np.ndarray, np.ndarray]:
    """Tell where the top left corners of rectangles lie after their frames are turned.

    Args:
        d4: uint8 (N,), of the frames.
        y: int (N,), pixels, of the rectangle's corner in its frame before.
        x: int (N,), likewise.
        size: Heights and widths of the rectangles.
        frame: Heights and widths of the frames.

    Returns:
        y and x after that, int (N,).
    """
    swap = d4 & 4 > 0
    y, x = np.where(swap, x, y), np.where(swap, y, x)
    height, width = (np.where(swap, frame[i] - size[i], frame[j] - size[j]) for i, j in ((1, 0), (0, 1)))
    return np.where(d4 & 1 > 0, height - y, y), np.where(d4 & 2 > 0, width - x, x)
