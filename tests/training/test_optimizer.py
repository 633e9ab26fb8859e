"""The optimizer is AdamW to the bit, and imports no compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nuclei.training.optimizer import EagerAdamW

TRAIN = """
import sys
sys.path.insert(0, "tests/support")
from pathlib import Path
from coloured import coloured
from nuclei.device import setup_device
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import load_params
from nuclei.training.loop import TrainConfig, fit

data, train = coloured(16, wrong=0), load_params(Path("params.yaml")).train
config = TrainConfig(lr=0.01, batch_size=8, steps=2, seed=0, ema=0.0, train=train)
network = build(SmallCNN(3, (4, 4, 8, 8), (8, 8), 0.2), seed=0)
(epoch,) = fit(network, data, None, config, setup_device("cpu", 1), resume_from=b"")
print(len(epoch.state) > 0, "torch._dynamo" in sys.modules)
"""


def train(optimizer_class: type[torch.optim.AdamW], resumed: bool) -> tuple[torch.Tensor, dict]:
    """Take six steps; `resumed`: with a new optimizer for the last three."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def start() -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = optimizer_class(network.parameters(), 0.1, weight_decay=0.05, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    optimizer, schedule = start()
    for number in range(6):
        if resumed and number == 3:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer, schedule = start()
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        network(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return network[0].weight.detach(), optimizer.state_dict()


@pytest.mark.parametrize("resumed", [False, True])
def test_it_takes_the_steps_of_adamw(resumed):
    (weights, state), (expected, expected_state) = train(EagerAdamW, resumed), train(torch.optim.AdamW, resumed=False)
    assert torch.equal(weights, expected)
    assert state["param_groups"] == expected_state["param_groups"]
    for number, moments in expected_state["state"].items():
        assert all(torch.equal(state["state"][number][name], values) for name, values in moments.items())


def test_training_does_not_import_the_compiler():
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
