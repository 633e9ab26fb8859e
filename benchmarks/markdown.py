"""Results as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is aligned left, the others right.

    Args:
        header: title of each column.
        rows: cells, as many in each row as in the header.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    lines = [_line(header), "|".join(["", "---", *["--:"] * (len(header) - 1), ""])]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} titles: {row}")
        lines.append(_line(row))
    return "\n".join(lines)


def with_interval(scores: Mapping[str, Any], name: str, form: str) -> str:
    """Write a score and its interval, where it has one.

    Args:
        scores: `name`, and the ends of its interval under `name`_low and `name`_high, or None there.
        name: Of a score.
        form: Of each number, as for `format`.
    """
    value, low, high = (scores[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:{form}}" if low is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
