from collections.abc import Iterator

import pytest
import torch

from nuclei.device import setup_device


@pytest.fixture(scope="package")
def one_thread() -> Iterator[torch.device]:
    """Compute here as workers with one thread do."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield setup_device("cpu", 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
