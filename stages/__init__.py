"""One script a stage. `python -m stages.NAME` runs it from the project's folder, as DVC does."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)

# A stage whose DVC was killed would go on beside the next one. Asked for here, before a script's imports take seconds.
if sys.platform == "linux" and sys.argv[0] == "-m":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

# Threads that wait for work sleep: spinning ones slow everything down twentyfold where two programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
