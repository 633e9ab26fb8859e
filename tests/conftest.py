import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling, Scheduling

from nuclei.machine import collect_garbage_rarely
from tools.clone import Clone, clone_project

collect_garbage_rarely()

# Two test processes share the cores: each has one thread, and those that wait must not spin. Read when PyTorch and
# NumPy are imported. On two threads, steps of small networks take three times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A Ray that a test starts counts one core, but for `local_ray`: one worker, which imports PyTorch once.
os.environ.setdefault("SLURM_CPUS_PER_TASK", "1")
# Ray's workers are nicer than a process of tests, and would wait until the other one pauses.
os.environ.setdefault("RAY_worker_niceness", "0")
# Tests join a cluster of several nodes from this process; nuclei.cluster would keep a Ray on loopback.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")

LONGEST = ("test_interrupt", "test_tutorial", "test_pipeline", "test_classes", "test_cluster")
# Files that share a Ray: one process runs them all.
WITH_RAY = ("test_classes", "test_tutorial", "test_train", "test_tuning")


class WholeFiles(LoadFileScheduling):
    """Each process runs whole files."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if Path(file).stem in WITH_RAY else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling | None:
    return WholeFiles(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, then those that need a finished pipeline."""

    def rank(item: pytest.Item) -> int:
        if item.path.stem in LONGEST:
            return LONGEST.index(item.path.stem)
        return len(LONGEST) + ("finished" not in item.fixturenames)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of two cores for all tests of `WITH_RAY`, where trials and networks run side by side; it starts slowly."""
    from nuclei.cluster import ray_cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("SLURM_CPUS_PER_TASK", "2")
        with ray_cluster():
            patch.setenv("SLURM_CPUS_PER_TASK", "1")
            yield


@pytest.fixture(scope="module")
def unchanged_torch() -> Iterator[None]:
    """What stages set in this process ends with the module that runs them."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def new_clone(tmp_path: Path) -> Callable[[], Clone]:
    return lambda: clone_project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clone:
    """A clone in which `dvc repro` has run on a tiny sample. Tests that change it put it back.

    The first test process that needs it makes it; each works with a copy.
    """
    base = tmp_path_factory.getbasetemp()
    common = base if worker_id == "master" else base.parent
    made, log = common / "finished", common / "finished.log"
    with FileLock(common / "finished.lock"):
        if not made.exists():
            clone = clone_project(tmp_path_factory.mktemp("project"))
            log.write_text(clone.run("dvc", "repro").stdout)
            clone.commit()
            clone.path.rename(made)
    copy = Clone(tmp_path_factory.mktemp("finished") / "project")
    shutil.copytree(made, copy.path, symlinks=True)
    copy.first_output = log.read_text()
    return copy
