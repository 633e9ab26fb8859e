"""Where the nuclei of crops that share pixels lie."""

import numpy as np

from nuclei.crops import Places
from nuclei.splitting.overlap import Pairs, layout
from nuclei.task import Task


def crop_centres(pairs: Pairs, n: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the middle of each crop lies.

    Args:
        pairs: Of the N crops.
        n: N.
        side: Pixels per side of a crop.

    Returns:
        int64 (N,) each: the mosaic, numbered by first appearance, and y and x in it, pixels.
    """
    placed = layout(pairs, n, (side, side))
    return placed.group, placed.y + side // 2, placed.x + side // 2


def crop_places(pairs: Pairs, n: int, task: Task) -> Places:
    """Return where the nucleus of each crop lies, in the middle of it; mosaics of crops are pieces of tissue.

    Args:
        pairs: Of the N crops.
        n: N.
        task: The size of the crops, and their resolution.
    """
    mosaic, y, x = crop_centres(pairs, n, task.side)
    return Places(mosaic, task.mpp * y, task.mpp * x)
