"""What every network of the pipeline has in common; the networks themselves are in `small_cnn` and `backbone`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from nuclei.params import Params
from nuclei.task import NETWORKS, Task


class Architecture(Protocol):
    """The shape of a network: a frozen dataclass whose fields say all that building it needs.

    Attributes:
        channels: Channels of its crops, 1 (grey) or 3 (RGB).
        classes: Number of classes that it tells apart.
    """

    channels: int
    classes: int
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def from_params(cls, params: Params, task: Task, tuned: dict[str, Any]) -> Self:
        """Choose the shape.

        Args:
            params: What is fixed.
            task: Its classes, and the size of its crops.
            tuned: A value for each key of `search_space`; other keys are ignored.
        """
        ...

    @staticmethod
    def search_space(params: Params) -> dict[str, list[int]]:
        """Return the choices of what `tune` searches beside learning rate and batch size, by name."""
        ...

    def build(self) -> nn.Module:
        """Build the network with random weights: float32 (N, C, H, W), normalised, to logits (N, classes).

        Its last linear layer makes the logits.
        """
        ...

    def load_pretrained(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """Fill a network with pretrained weights, apart from its last layer.

        Args:
            network: What `build` returned.
            weights: By name, as torchvision names them.

        Raises:
            InputError: They do not fit.
        """
        ...

    def cam_layer(self, network: nn.Module) -> nn.Module:
        """Return the layer of `network` whose feature maps, not negative, LayerCAM weighs and novelty uses."""
        ...


def architecture_class(name: str) -> type[Architecture]:
    """Import the architecture of a network.

    Args:
        name: A key of `nuclei.task.NETWORKS`.
    """
    module, _, attribute = NETWORKS[name].architecture.rpartition(".")
    return getattr(import_module(module), attribute)


def build(architecture: Architecture, seed: int) -> nn.Module:
    """Build a network whose random weights depend on `seed` alone, channels last in memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build()
    return network.to(memory_format=torch.channels_last)


def shift_logits(network: nn.Module, offsets: Tensor) -> None:
    """Change a network in place so that all its logits are shifted: by the bias of its last linear layer.

    Args:
        network: What is changed.
        offsets: float (classes,), what is added.
    """
    last = last_linear(network)
    with torch.no_grad():
        last.bias.add_(offsets.to(last.bias))


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network: what makes logits of embeddings."""
    *_, last = (module for module in network.modules() if isinstance(module, nn.Linear))
    return last


@contextmanager
def watch(network: nn.Module, architecture: Architecture) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Note what a network computes on its way to the logits, at no cost.

    Args:
        network: In evaluation mode.
        architecture: What it was built from.

    Yields:
        Two lists, to which each pass adds float32 on the CPU: embeddings (N, D), what goes into the last linear layer;
        and features (N, E), the means of the feature maps of the architecture's `cam_layer`, or the embeddings again
        where there are no such maps.
    """
    embeddings: list[Tensor] = []
    features: list[Tensor] = []

    def note_embeddings(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        embeddings.append(inputs[0].float().cpu())

    def note_features(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        features.append(output.float().mean(dim=(2, 3)).cpu() if output.ndim == 4 else embeddings[-1])

    with (
        last_linear(network).register_forward_pre_hook(note_embeddings),
        architecture.cam_layer(network).register_forward_hook(note_features),
    ):
        yield embeddings, features
