"""What the study of generalisation changes does what its name says."""

from functools import partial

import numpy as np
import pytest
import torch
from tissue import some_crops
from torchvision.transforms import v2

from benchmarks.studies import changes
from benchmarks.studies.generalisation import SETTINGS
from nuclei.crops import LabelledCrops
from nuclei.models.networks import build
from nuclei.training import loop


def test_a_mixed_network_is_asked_for_the_labels_of_its_mixture() -> None:
    network = changes.Mixed(partial(v2.MixUp, alpha=1.0), torch.nn.Flatten())
    inputs, labels = torch.eye(4).view(4, 1, 2, 2), torch.tensor([2, 0, 3, 0])
    logits = network.train()(inputs)  # those of the identity are the shares themselves
    with changes.mixed_labels(network):
        loss = loop._mean_loss(logits, labels, torch.ones(4), label_smoothing=0.0)
    assert torch.allclose(logits.sum(dim=1), torch.ones(4)) and not torch.equal(logits, torch.eye(4))
    asked = logits @ torch.nn.functional.one_hot(labels, 4).float()
    assert torch.isclose(loss, torch.nn.functional.cross_entropy(logits, asked))
    assert torch.equal(network.eval()(inputs), torch.eye(4))


@pytest.mark.parametrize("name", ["two scales", "average pooling", "two convolutions more", "blur, JPEG, brightness"])
def test_a_changed_network_makes_logits_and_learns_in_all_its_layers(name: str) -> None:
    torch.manual_seed(0)
    network = changes.OF_CNN[name].adapt(build(SETTINGS["cnn"].shape, seed=0)).train()
    network(torch.randn(4, 3, 100, 100)).square().sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in network.parameters())


def test_biases_and_batch_norm_do_not_decay() -> None:
    network = changes.SparingDecay(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    for group in optimizer.param_groups:
        for weights in group["params"]:
            weights.grad = torch.zeros_like(weights)
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"}


def test_restained_crops_are_added_to_those_of_the_training() -> None:
    pale = some_crops(8)
    crops = np.concatenate([pale, (0.7 * pale).astype(np.uint8)])
    data = LabelledCrops(crops, np.arange(16) % 4)
    both = changes.add_restained(data, np.repeat([0, 1], 8))
    assert np.array_equal(both.crops[:16], crops) and np.array_equal(both.labels, np.tile(data.labels, 2))
    darker = both.crops[16:].mean(axis=(1, 2, 3)) < crops.mean(axis=(1, 2, 3))
    assert darker[:8].all() and not darker[8:].any()  # each group as the other
