"""Crops cut around positions, at the resolution that the networks know."""

from collections.abc import Iterator

import numpy as np
import PIL.Image

from nuclei.data.tissue_image import TissueImage
from nuclei.task import COLON, Task

AS_IT_IS = 0.05  # relative difference of two resolutions up to which resampling would blur more than it corrects
MARGIN = 4  # pixels round a crop that the resampling looks at


def window(mpp: float, task: Task = COLON) -> float:
    """Return how many pixels of an image of `mpp` microns a pixel a crop spans: its side, where that is near enough."""
    return float(task.side) if abs(mpp / task.mpp - 1) <= AS_IT_IS else task.side * task.mpp / mpp


def cut(pixels: np.ndarray, y: float, x: float, span: float, side: int = COLON.side) -> np.ndarray:
    """Cut the crop around (y, x) from RGB pixels, uint8 (H, W, 3), and bring it to uint8 (side, side, 3).

    span: pixels that the crop spans. As many as its side: they are taken as they are, from row round(y) - side / 2 on,
    as the competition did; else resampled (bicubic, with a wider kernel where it shrinks, so that nothing aliases).
    What lies outside of the pixels is mirrored at their edge.
    """
    height, width = pixels.shape[:2]
    if span == side:
        top, left = round(y) - side // 2, round(x) - side // 2
        bottom, right = top + side, left + side
    else:
        reach = span / 2 + MARGIN * max(span / side, 1)
        top, left = int(np.floor(y - reach)), int(np.floor(x - reach))
        bottom, right = int(np.ceil(y + reach)), int(np.ceil(x + reach))
    inside = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    missing = [(max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0)]
    padded = np.pad(inside, missing, mode="symmetric") if np.any(missing) else inside
    if span == side:
        return padded.copy()
    box = (x - span / 2 - left, y - span / 2 - top, x + span / 2 - left, y + span / 2 - top)
    return np.asarray(PIL.Image.fromarray(padded).resize((side, side), PIL.Image.Resampling.BICUBIC, box))


def cut_all(
    image: TissueImage, y: np.ndarray, x: np.ndarray, mpp: float, task: Task = COLON
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every row of the positions, each once, with its crop, uint8 (side, side, 3).

    y, x: float64 (N,), pixels, within the image; mpp: of the image, microns a pixel.
    Rows come block after block of the image, so that no part of it is read again and again.
    """
    side, span = task.side, window(mpp, task)
    if span == side:  # rounded before anything is subtracted: halves go to the even pixel
        y, x = np.rint(y), np.rint(x)
    reach = int(span / 2 + MARGIN * max(span / side, 1)) + 2
    block = (y // image.block[0]).astype(np.int64) * (image.width // image.block[1] + 1) + x // image.block[1]
    order = np.argsort(block, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        top, left = max(int(y[rows].min()) - reach, 0), max(int(x[rows].min()) - reach, 0)
        bottom = min(int(y[rows].max()) + reach, image.height)
        right = min(int(x[rows].max()) + reach, image.width)
        region = image.read(top, left, bottom, right)
        for row in rows.tolist():
            yield row, cut(region, y[row] - top, x[row] - left, span, side)
