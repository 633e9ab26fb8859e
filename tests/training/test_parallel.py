import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional

from nuclei.training.parallel import Team, unite

ROWS = 7  # that two cannot share evenly
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def draw() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    # Inputs far from zero: a variance by way of the mean square would lose its digits.
    return network, 50 + torch.randn(ROWS, 3, 9, 9), torch.arange(ROWS) % 3


def step(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, team: Team) -> dict[str, torch.Tensor]:
    """Return the logits of all rows, the gradients, and what batch norm has noted."""
    torch.manual_seed(1)  # dropout
    own = torch.from_numpy(team.part(np.arange(ROWS)))
    logits = team.gather(network(inputs[own]))
    functional.cross_entropy(logits, labels, CLASS_WEIGHTS).backward()
    gradients = {f"gradient of {name}": weight.grad for name, weight in network.named_parameters()}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


def join(child: int, folder: Path, rank: int = 1) -> None:
    """Be one of two processes that have to find what one finds; AssertionError where they don't."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        network, inputs, labels = draw()
        alone = step(deepcopy(network), inputs, labels, Team())
        unite(network)
        together = step(network, inputs, labels, Team(rank, 2))
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    finally:
        distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface is called lo")
def test_batch_norm_dropout_and_gradients_of_two_processes_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    threads = torch.get_num_threads()
    other = multiprocessing.spawn(join, [tmp_path], join=False)
    try:
        join(0, tmp_path, rank=0)
    finally:
        torch.set_num_threads(threads)
        other.join()


def test_every_row_is_in_one_part_in_order():
    parts = [Team(rank, 3).part(np.arange(8)) for rank in range(3)]
    assert np.concatenate(parts).tolist() == list(range(8))
    assert max(map(len, parts)) - min(map(len, parts)) == 1
