"""One script per stage. `python -m stages.NAME` runs it from the project's folder, as DVC does."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from nuclei.machine import collect_garbage_rarely, ignore_matplotlib_settings

POLL = 0.1  # seconds


def _end_with_dvc() -> None:
    """Kill this process once DVC is gone: it would go on beside the next `dvc repro`.

    DVC starts a stage by the shell of the environment (`dvc.stage.run`). bash replaces itself by the stage (exec), so
    that DVC is the parent; dash, the /bin/sh of Debian, stays as the parent, and DVC is the grandparent.
    """
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process()
        parent = child.parent()
        if parent and parent.name() == Path(os.environ.get("SHELL") or "/bin/sh").name:
            child, parent = parent, parent.parent()
        while parent and child.ppid() == parent.pid:
            time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)


def _end_in_a_line(number: int, frame: FrameType | None) -> None:
    """Say that Ctrl-C was pressed while a script imports; from then on `nuclei.errors.run` sees to that.

    A KeyboardInterrupt would not do: NumPy and others catch it while they import, and fail later, half imported.
    """
    if hasattr(sys.modules["__main__"], "main"):
        signal.default_int_handler(number, frame)
    os.write(sys.stderr.fileno(), b"error: interrupted\n")
    os._exit(128 + number)


collect_garbage_rarely()
# Asked for here, before a script's imports take seconds.
if sys.argv[0] == "-m":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_in_a_line)
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_end_with_dvc, daemon=True).start()

ignore_matplotlib_settings()
# Threads that wait for work sleep: spinning ones slow everything down twentyfold where two programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
