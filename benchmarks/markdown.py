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
    lines = [header, ["---", *["--:"] * (len(header) - 1)]]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} titles: {row}")
        lines.append(row)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
