"""The one exception that a user sees, and the one place that turns it into a line on the screen."""

import errno
import signal
import sys
from collections.abc import Callable, Sized
from typing import NoReturn

# What may befall any file that is written or read, and what helps. Other OSErrors are mistakes of ours.
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "make the folder writable, or work in another one",
    errno.EACCES: "ask for it, or work in another folder",
    errno.EPERM: "ask for it, or work in another folder",
    errno.ENAMETOOLONG: "give a shorter name",
}


class InputError(Exception):
    """Bad input. The message names the file and the row or member, what was expected, and what to do."""


def run(main: Callable[[], None]) -> None:
    """Call `main`; end with one line on stderr where input is bad, a file cannot be written, or Ctrl-C is pressed.

    Raises:
        SystemExit: With 1, or after Ctrl-C with 130.
    """
    try:
        main()
    except InputError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _end(f"{where}{error.strerror}: {REMEDIES[error.errno]}")
    except KeyboardInterrupt:
        _end("interrupted", 128 + signal.SIGINT)


def one_line(message: str) -> str:
    """Escape what is not printable: one line on any screen, whatever the name or content of a file brought in."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)


def warn(message: str) -> None:
    """Print a line on stderr about what went on, but may not be what the user wants."""
    print(f"warning: {one_line(message)}", file=sys.stderr)


def _end(message: str, code: int = 1) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


def show(text: str) -> str:
    """Quote what a user handed in: no line breaks or other surprises, not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def and_others(items: Sized) -> str:
    """Say that the item that is named is not the only one of `items`; nothing where it is."""
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
