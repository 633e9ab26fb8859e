"""References of networks that never learned anything, for tests of what reads or writes models."""

import numpy as np
import torch
from torch import nn

from nuclei.models.networks import Architecture
from nuclei.models.novelty import Reference, fit_reference
from nuclei.models.predict import predict_outputs

NO_REFERENCE = Reference(torch.zeros(1), torch.eye(1))  # of a model that is never asked for novelties, nor loaded


def reference_of(network: nn.Module, architecture: Architecture, crops: np.ndarray | None = None) -> Reference:
    """Take crops, or noise, for those that a network was trained on."""
    if crops is None:
        crops = np.random.default_rng(0).integers(0, 256, (4, 100, 100, architecture.channels)).astype(np.uint8)
    training = network.training
    outputs = predict_outputs(network, architecture, crops, torch.device("cpu"), "float32")
    network.train(training)
    return fit_reference(outputs.features)
