"""Results as Markdown."""

from collections.abc import Iterable, Sequence


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


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
