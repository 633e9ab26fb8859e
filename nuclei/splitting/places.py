"""Where the nuclei of crops that share pixels lie."""

from nuclei.crops import Places
from nuclei.splitting.overlap import Pairs, layout
from nuclei.task import Task


def crop_places(pairs: Pairs, n: int, task: Task) -> Places:
    """Return where the nucleus of each crop lies, in the middle of it; mosaics of crops are pieces of tissue.

    Args:
        pairs: Of the N crops.
        n: N.
        task: The size of the crops, and their resolution.
    """
    placed, half = layout(pairs, n, (task.side, task.side)), task.side // 2
    return Places(placed.group, task.mpp * (placed.y + half), task.mpp * (placed.x + half))
