"""How far a long stage is: a bar with the time left on a terminal, elsewhere a line every half minute."""

import sys
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

EVERY = 30  # seconds between two lines where there is no terminal


class Progress:
    """A context that shows how much of `total` is done, on standard error."""

    def __init__(self, total: int, desc: str, unit: str):
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            desc=desc,
            unit=unit,
            file=sys.stderr if terminal else _Lines(sys.stderr),
            mininterval=0.1 if terminal else EVERY,
            maxinterval=10 if terminal else 2 * EVERY,
            leave=False,
            dynamic_ncols=terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.bar.close()

    def update(self, done: int, line: str = "") -> None:
        """Show how much is done.

        Args:
            done: Of the total, in all.
            line: What was done last; printed on a terminal, which scrolls.
        """
        if line and sys.stderr.isatty():
            self.bar.write(line)
        self.bar.set_postfix_str(line, refresh=False)
        self.bar.update(done - self.bar.n)


class _Lines:
    """A stream on which a bar becomes one line per refresh."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        text = text.replace("\r", "").strip()
        return self.stream.write(f"{text}\n") if text else 0

    def flush(self) -> None:
        self.stream.flush()
