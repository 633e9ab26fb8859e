"""Every kind of file that a user hands in, broken or hostile: one line says what is wrong, or it is read for a reason.

`uv run pytest tests/hostile/test_hostile.py -s` prints how many cases there are and what they cost.
"""

import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hostile.crops import CROPS
from hostile.models import CHECKPOINTS, WEIGHTS, WEIGHTS_AS_SAFETENSORS
from hostile.outcomes import Accepted, Cases, Refused
from hostile.parameters import PARAMETERS
from hostile.tables import TABLES
from hostile.zips import ZIPS
from raw_files import PIXELS, TEST, TRAIN, write_good
from stage_runs import run_stage

from nuclei.data.unpack import unpack
from nuclei.errors import InputError
from nuclei.files import write_json
from nuclei.models.checkpoint import load_model
from nuclei.models.pretrained import read_weights
from nuclei.params import load_params
from nuclei.splitting.overlap import overlapping_pairs, save_pairs
from nuclei.task import COLON
from tools.clone import ROOT, change_params

MOST_MEMORY = 2 * 2**30  # bytes
MOST_SECONDS = 10  # of the CPU
LONGEST_LINE = 2000  # characters


class Surface(NamedTuple):
    """A kind of file: where it lies, what is there before a case changes it, and who reads it."""

    cases: Cases
    path: str
    prepare: Callable[[Path], object]
    read: Callable[[Path], object]


def unpack_right(raw: Path) -> None:
    """Unpack beside `raw`; the arrays must hold the crops."""
    unpack(raw, raw.parent / "out", 3)
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        assert np.array_equal(np.load(raw.parent / f"out/{part}.npy"), [PIXELS[number] for number in numbers])


def nothing(path: Path) -> None:
    pass


SURFACES = {
    "zip": Surface(ZIPS, "raw", write_good, unpack_right),
    "crop": Surface(CROPS, "raw", write_good, unpack_right),
    "table": Surface(TABLES, "raw", write_good, unpack_right),
    "params": Surface(PARAMETERS, "params.yaml", lambda path: shutil.copy(ROOT / "params.yaml", path), load_params),
    "checkpoint": Surface(CHECKPOINTS, "model.safetensors", nothing, load_model),
    "weights": Surface(WEIGHTS, "weights.pt", nothing, read_weights),
    "weights as safetensors": Surface(WEIGHTS_AS_SAFETENSORS, "weights.Safetensors", nothing, read_weights),
}
ALL = [(name, case) for name, surface in SURFACES.items() for case in surface.cases]


class Watch:
    """What Python's audit events tell: paths that are written, and calls that run something."""

    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
    REACHING = ("socket.connect", "socket.getaddrinfo", "ctypes.dlopen")

    def __init__(self) -> None:
        self.on = False
        self.written: set[Path] = set()
        self.ran: set[str] = set()
        sys.addaudithook(self.notice)

    def notice(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and args[2] & self.WRITING and isinstance(args[0], str | bytes):
            self.written.add(Path(os.fsdecode(args[0])))
        elif event in ("os.remove", "os.rmdir") and args[1] != -1:  # a name within an open folder
            self.written.add(Path(f"/proc/self/fd/{args[1]}").resolve() / os.fsdecode(args[0]))
        elif event in self.CHANGING:
            self.written |= {Path(os.fsdecode(arg)) for arg in args if isinstance(arg, str | bytes)}
        elif event in self.RUNNING + self.REACHING:
            self.ran.add(event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.on, self.written, self.ran = True, set(), set()
        try:
            yield
        finally:
            self.on = False


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def memory(field: str) -> int:
    """Read VmRSS (now) or VmHWM (the peak) of this process in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@contextmanager
def limited() -> Iterator[dict[str, float]]:
    """End what takes more CPU than a case may; tell the memory that it took at its peak."""
    cost = {"memory": 0.0, "seconds": 0.0}

    def stop(signal_number: int, frame: object) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s of CPU")

    before = signal.signal(signal.SIGPROF, stop)
    peaks = Path("/proc/self/clear_refs")
    if peaks.exists():
        peaks.write_text("5")  # the peak starts anew
    at_first, start = memory("VmRSS"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield cost
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        cost["seconds"] = time.process_time() - start
        cost["memory"] = memory("VmHWM") - at_first


@pytest.fixture(scope="module")
def costs() -> Iterator[dict[tuple[str, str], dict[str, float]]]:
    """Gather what each case cost; in the end, print it a surface a line."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    yield found
    print(f"\n{'file':24}{'refused':>8}{'accepted':>9}{'peak MB':>8}{'CPU s':>7}")
    for name, surface in SURFACES.items():
        outcomes = Counter(type(outcome) for _, outcome in surface.cases.values())
        ran = [cost for (some, _), cost in found.items() if some == name]
        peak, longest = (max((cost[key] for cost in ran), default=0) for key in ("memory", "seconds"))
        print(f"{name:24}{outcomes[Refused]:8}{outcomes[Accepted]:9}{peak / 1e6:8.0f}{longest:7.1f}")
    totals = Counter(type(outcome) for surface in SURFACES.values() for _, outcome in surface.cases.values())
    print(f"{'all':24}{totals[Refused]:8}{totals[Accepted]:9}")


def state(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Tell each path by inode and mode; files also by size and time."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[path] = (status.st_ino, status.st_mode)
        if not path.is_dir():
            found[path] += (status.st_size, status.st_mtime_ns)
    return found


def test_there_are_at_least_two_hundred_cases():
    assert len(ALL) >= 200


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "case"), ALL, ids=[f"{name}: {case}" for name, case in ALL])
def test_it_is_refused_in_one_line_or_read_for_a_reason(name, case, tmp_path, watch, costs):
    surface = SURFACES[name]
    change, outcome = surface.cases[case]
    folder = tmp_path / "data"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "train.npy").write_bytes(b"of an earlier run")
    path = folder / surface.path
    surface.prepare(path)
    change(path)
    before = state(tmp_path)
    message = None
    with limited() as cost, watch.watching():
        try:
            surface.read(path)
        except InputError as error:
            message = str(error)
    costs[name, case] = cost

    assert cost["memory"] < MOST_MEMORY
    assert not watch.ran
    for place in watch.written - {folder}:  # to which a first run may give its place
        assert place.relative_to(folder).parts[0].startswith(("out", ".out.")), place
    if isinstance(outcome, Accepted):
        assert message is None
        return
    assert message is not None, "it was read"
    assert message.startswith(str(path)) and message.isprintable() and len(message) < LONGEST_LINE
    assert outcome.words in message.replace(f"{path}/", "").replace(f"{path}: ", "")
    assert state(tmp_path) == before


def limit() -> None:
    """Give this process no more memory and CPU than a case may take."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * MOST_SECONDS, 2 * MOST_SECONDS))  # importing torch takes half


@pytest.mark.parametrize(
    ("stage", "name", "case", "path"),
    [
        ("unzip", "zip", "a list of 70 MB", "data/sample"),
        ("unzip", "zip", "members that quote each other", "data/sample"),
        ("unzip", "crop", "60,000x60,000 with all of its pixels packed", "data/sample"),
        ("unzip", "table", "10 million rows", "data/sample"),
        ("sample", "params", "a billion laughs", "params.yaml"),
        ("unzip", "params", "a letter missing in a section", "params.yaml"),
        ("weights", "weights", "a pickle of 50 million lists", "data/pretrained/weights.pt"),
        ("submit", "checkpoint", "14 GB of filters", "data/models/cnn/final.safetensors"),
    ],
)
def test_a_user_sees_one_line_and_keeps_the_outputs(stage, name, case, path, tmp_path):
    surface = SURFACES[name]
    change, outcome = surface.cases[case]
    shutil.copy(ROOT / "params.yaml", tmp_path)
    if stage == "weights":
        change_params(tmp_path / "params.yaml", {"train_resnet.weights": Path(path).name})
    crops = tmp_path / "data" / "crops"
    crops.mkdir(parents=True)
    np.save(crops / "test.npy", np.zeros((4, 100, 100, 3), np.uint8))
    (crops / "test.csv").write_text("Filename\n1.png\n2.png\n3.png\n4.png\n")
    (crops / "train.csv").write_text("Filename,Label\n5.png,0\n")
    write_json(crops / "task.json", COLON._asdict())
    save_pairs(tmp_path / "data/overlaps.npz", overlapping_pairs(np.zeros((5, 100, 100, 3), np.uint8)))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    surface.prepare(tmp_path / path)
    change(tmp_path / path)
    before = state(tmp_path)
    done = run_stage(stage, tmp_path, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {path}") and done.stderr.count("\n") == 1
    assert outcome.words in done.stderr.replace(f"{path}/", "").replace(f"{path}: ", "")
    assert state(tmp_path) == before
