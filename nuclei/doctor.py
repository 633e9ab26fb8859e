"""What this machine has for the pipeline, what it lacks, what each lack means, and how to mend it.

Nothing is contacted, and nothing is imported before it is known to be there: who asks has a machine in disorder.
"""

import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.request import getproxies

from nuclei.cluster_checks import check_port
from nuclei.errors import InputError
from nuclei.machine import free_space, usable_memory, usable_threads

GB = 10**9
LITTLE_MEMORY, LITTLE_DISK, LITTLE_SHARED = 4 * GB, 3 * GB, 0.5 * GB
LONGEST_TMPDIR = 40  # characters; Ray adds 60 to it, and the path of a socket may have 107
IMAGENET = "resnet18-f37072fd.pth"  # as torchvision names its file
BROWSERS = ("chromium", "chromium-browser")
COLUMNS = 100


class Check(NamedTuple):
    """What was looked at.

    Attributes:
        topic: One word.
        finding: What this machine has.
        lack: What is missing, what that means and how to mend it; empty: nothing.
        needed: Whether the pipeline cannot run while it is missing.
    """

    topic: str
    finding: str
    lack: str = ""
    needed: bool = False


def examine(folder: Path) -> list[Check]:
    """Look at this machine, for a run of the pipeline.

    Args:
        folder: Where the pipeline is to run.
    """
    checks = [_python(), _packages()]
    asked, checks_of_params = _params(folder / "params.yaml")
    checks += checks_of_params
    threads = usable_threads()
    checks += _processor(asked["device"]) if find_spec("torch") else []
    checks += [_threads(threads, asked["threads"]), _memory(usable_memory()), _disk(folder)]
    checks += [_weights(folder), _network(), *_ray(), *_extras()]
    return checks


def is_fit(checks: Iterable[Check]) -> bool:
    """Return whether nothing is missing that the pipeline needs."""
    return not any(check.lack and check.needed for check in checks)


def screen(checks: Iterable[Check]) -> str:
    """Return the checks as text: a line each, what is missing below it, and the verdict."""
    lines = []
    for check in checks:
        lines.append(f"{check.topic:<10} {check.finding}")
        if check.lack:
            mark = "ERROR: " if check.needed else "-> "
            lines += textwrap.wrap(mark + check.lack, COLUMNS, initial_indent=" " * 11, subsequent_indent=" " * 14)
    verdict = "Nothing that the pipeline needs is missing." if is_fit(checks) else "What ERROR marks has to be mended."
    return "\n".join([*lines, verdict])


def _python() -> Check:
    return Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}")


def _packages() -> Check:
    """Compare what is installed with what pyproject.toml pins."""
    missing, other, count = [], [], 0
    for line in requires("nuclei") or ():
        pinned = re.match(r"([\w.-]+)(?:\[[^]]*\])?==([\w.]+)$", line)  # not those of an extra: they have a condition
        if not pinned:
            continue
        name, wanted = pinned.groups()
        count += 1
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if installed.partition("+")[0] != wanted:  # torch 2.15.0+cpu
            other.append(f"{name} {installed} instead of {wanted}")
    remedy = "run `uv sync`, or `pip install -e .` in the virtual environment"
    if missing:
        return Check(
            "packages", f"{count - len(missing)} of {count}", f"no {', '.join(missing)}: {remedy}", needed=True
        )
    lack = f"{', '.join(other)}: results may differ from those published; {remedy}" if other else ""
    return Check("packages", f"nuclei {version('nuclei')}, torch {version('torch')}, dvc {version('dvc')}", lack)


def _params(path: Path) -> tuple[dict, list[Check]]:
    """Read what params.yaml asks of the machine, or else the defaults."""
    default = {"device": "auto", "threads": 1}
    if not path.exists():
        return default, [
            Check("params", "no params.yaml here", "the pipeline runs in the folder that has it: go there")
        ]
    try:
        from nuclei.params import load_params

        params = load_params(path)
    except ImportError:  # of a package that is missing, which was told
        return default, []
    except InputError as error:
        return default, [Check("params", "params.yaml cannot be read", str(error), needed=True)]
    return {"device": params.device, "threads": params.threads}, []


def _processor(device: str) -> Iterator[Check]:
    try:
        import torch

        from nuclei.device import computes_bfloat16, processor, setup_device
    except (ImportError, OSError) as error:  # OSError: a library that it was built with
        yield Check("torch", "cannot be imported", f"{error}: reinstall it", needed=True)
        return
    fast = computes_bfloat16(torch.device("cpu"))
    described = f"{processor()}: {torch.backends.cpu.get_cpu_capability()}, {'' if fast else 'no '}bfloat16"
    slow = "training and prediction are slower than on processors that have it, and no less accurate"
    yield Check("processor", described, "" if fast else slow)

    lack = "networks compute on the processor, which is enough for the sample and slower than any GPU"
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
        gpu, lack = ", ".join(f"{each.name}, {each.total_memory / GB:.0f} GB" for each in names), ""
    elif torch.backends.mps.is_available():
        gpu, lack = "Apple's (mps)", ""
    elif shutil.which("nvidia-smi"):
        gpu, lack = "NVIDIA's, which torch cannot use", f"{lack}. Install torch for CUDA, or a newer driver"
    else:
        gpu = "none"
    try:
        setup_device(device, 1)
    except InputError as error:
        yield Check("gpu", gpu, str(error), needed=True)
    else:
        yield Check("gpu", gpu, lack)


def _threads(threads: int, asked: int) -> Check:
    usable = f"{threads} of the machine's {os.cpu_count()} may be used (affinity, control groups, SLURM)"
    lack = f"params.yaml asks for {asked}, which will wait for each other: set threads: {threads}"
    return Check("threads", usable, lack if asked > threads else "")


def _memory(limit: int | None) -> Check:
    if limit is None:
        return Check("memory", "unknown here")
    lack = "the search may be ended by the system: give the container or job more, or raise tune.cpus_per_trial"
    return Check("memory", f"{limit / GB:.1f} GB may be used", lack if limit < LITTLE_MEMORY else "")


def _disk(folder: Path) -> Check:
    space = free_space(folder)
    free = f"{space / GB:.1f} GB free here"
    if not os.access(folder, os.W_OK):
        return Check("disk", free, "the folder cannot be written to: ask for it, or work in another", needed=True)
    lack = "crops, models and DVC's cache lie here: free some space, or see `dvc cache dir`"
    return Check("disk", free, lack if space < LITTLE_DISK else "")


def _weights(folder: Path) -> Check:
    """Look for ResNet18's pretrained weights where the stage `weights`, torch.hub and people put them."""
    cache = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    given = folder / "data/pretrained"
    paths = [folder / "data/weights/pretrained.safetensors", cache.expanduser() / "hub/checkpoints" / IMAGENET]
    paths += sorted(path for path in given.glob("*") if path.name != "README")
    weights = [str(path) for path in paths if path.exists() and path.stat().st_size > GB / 1000]  # none: a small file
    lack = (
        "the stage `weights` downloads 45 MB once. Without a network the sample starts from random weights; for your "
        f"crops, copy {IMAGENET} from elsewhere to {given} and set train_resnet.weights to its name"
    )
    return Check("weights", ", ".join(weights) or "no ImageNet weights here", "" if weights else lack)


def _network() -> Check:
    proxies = ", ".join(f"{kind} by {re.sub('//.*@', '//', address)}" for kind, address in sorted(getproxies().items()))
    return Check("network", f"not tried; only ImageNet weights need one; proxies: {proxies or 'none'}")


def _ray() -> Iterator[Check]:
    """Look at what `tune` needs, and nothing else."""
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        yield Check("ray", f"a cluster, {os.environ['RAY_ADDRESS']} (RAY_ADDRESS; not contacted)")
        return
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    lack, needed = "", False
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        lack, needed = f"{folder} cannot be written to: set RAY_TMPDIR to a folder that can", True
    elif len(str(folder)) > LONGEST_TMPDIR:
        lack, needed = f"the path has more than {LONGEST_TMPDIR} characters: set RAY_TMPDIR to a shorter one", True
    elif free_space(folder) < LITTLE_DISK:
        lack = f"{free_space(folder) / GB:.1f} GB free there: set RAY_TMPDIR to a folder with more"
    try:
        check_port()
    except InputError as error:
        lack, needed = str(error), True
    yield Check("ray", f"on this machine, its files in {folder}", lack, needed)
    shared = Path("/dev/shm")
    if shared.exists() and free_space(shared) < LITTLE_SHARED:
        lack = f"Ray uses the disk instead, which is slower: docker run --shm-size={LITTLE_SHARED / GB:g}g, or more"
        yield Check("/dev/shm", f"{free_space(shared) / GB:.2f} GB free", lack)


def _extras() -> Iterator[Check]:
    """Look at what is optional."""
    slides, onnx = find_spec("openslide"), find_spec("onnx") and find_spec("onnxruntime")
    lack = "`nuclei predict` opens TIFF and PNG, but no .svs, .ndpi or .mrxs: pip install -e '.[slide]'"
    yield Check("openslide", f"{version('openslide-python')}" if slides else "none", "" if slides else lack)
    lack = "`nuclei export` cannot write ONNX: pip install -e '.[onnx]'"
    yield Check(
        "onnx", f"{version('onnx')}, runtime {version('onnxruntime')}" if onnx else "none", "" if onnx else lack
    )
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    lack = "any browser shows the report; but the tests that look at it in one are skipped: install Chromium"
    yield Check("chromium", browser or "none", "" if browser else lack)
    git = shutil.which("git")
    yield Check("git", git or "none", "" if git else "`dvc exp` and `dvc metrics diff` need it: install git")
