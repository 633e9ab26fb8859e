"""The ImageNet weights that ResNet18 may start from."""

import socket
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import ResNet18_Weights

from nuclei.errors import InputError

TIMEOUT = 20  # seconds without an answer before a download counts as impossible


def download_imagenet() -> dict[str, Tensor]:
    """Return torchvision's ResNet18 weights (IMAGENET1K_V1), the download's hash checked. Raises OSError offline."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub passes none on
    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True, weights_only=True))
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read ResNet18 weights from .safetensors, or from torch.save's format without running any code in it.

    Raises InputError where the file is missing, is neither, or holds no trained ResNet18.
    """
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); see train_resnet.weights") from None
    except Exception:  # what a broken file makes of torch's unpickler is anyone's guess
        raise InputError(
            f"{path}: neither safetensors nor plain tensors of torch.save; see train_resnet.weights"
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise InputError(f"{path}: expected a state dict of tensors (name: tensor); see train_resnet.weights")
    check_trained(weights, path)
    return {name: value.contiguous() for name, value in weights.items()}


def check_trained(weights: dict[str, Tensor], source: Path | str) -> None:
    """Raise InputError unless `weights` are those of a ResNet18 that was trained."""
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    if len(means) != 20 or "layer4.1.bn2.running_mean" not in weights:
        raise InputError(f"{source}: not the weights of a ResNet18 ({len(means)} batch-norm layers, expected 20)")
    if not any(mean.any() for mean in means):
        raise InputError(f"{source}: never trained (all batch-norm means are zero): give weights that were")
