from collections.abc import Iterator

import pytest
import torch

from nuclei.cluster import ray_cluster
from nuclei.device import setup_device


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """A Ray of this machine for all tests of this folder: it takes ten seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_cluster():
            yield


@pytest.fixture(scope="package")
def one_thread() -> Iterator[torch.device]:
    """Compute here as workers with one thread do."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield setup_device("cpu", 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
