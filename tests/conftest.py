import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tools.clone import Clone, clone_project

# Two test processes share the cores: threads that wait must not spin. Read when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray's workers are nicer than a process of tests, and would wait until the other one pauses.
os.environ.setdefault("RAY_worker_niceness", "0")
# Tests join a cluster of several nodes from this process; nuclei.cluster would keep a Ray on loopback.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")

LONGEST = ("test_interrupt", "test_tutorial", "test_pipeline", "test_classes", "test_cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, then those that need a finished pipeline. Each process runs whole files."""

    def rank(item: pytest.Item) -> int:
        if item.path.stem in LONGEST:
            return LONGEST.index(item.path.stem)
        return len(LONGEST) + ("finished" not in item.fixturenames)

    items.sort(key=rank)


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
