"""The one exception that a user sees, and the one place that turns it into a line on the screen."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input. The message names the file and the row or member, what was expected, and what to do."""


def run(main: Callable[[], None]) -> None:
    """Call `main`; end with one line on stderr and exit code 1 where it raises InputError."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
