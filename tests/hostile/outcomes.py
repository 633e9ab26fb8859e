"""What may become of a file that a user hands in."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Refused(NamedTuple):
    """It ends in one line, with exit code 1. That line has `words` in it, behind the file's name."""

    words: str


class Accepted(NamedTuple):
    """It is read, to the same end as an ordinary file, for a reason."""

    reason: str


# A case: how to make the file, or to spoil a good one, and what becomes of it.
Cases = dict[str, tuple[Callable[[Path], object], Refused | Accepted]]
