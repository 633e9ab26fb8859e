"""The ImageNet weights that ResNet18 may start from."""

import socket
from pathlib import Path

import torch
from torch import Tensor

from nuclei.errors import InputError
from nuclei.tensors import load_plain, open_tensors

TIMEOUT = 20  # seconds without an answer before a download counts as impossible
MOST_VALUES = 2**25  # ResNet18 has 12 million
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def obtain_weights(asked: str, folder: Path, may_go_without: bool) -> tuple[dict[str, Tensor], str]:
    """Return the weights that are asked for, none for random ones, and what they are.

    Args:
        asked: imagenet, none, or the name of a file in `folder`.
        folder: Where files of weights lie; a dependency of the stage, so that a changed file is noticed.
        may_go_without: Whether random weights do where a download is impossible.

    Raises:
        InputError: Where the weights cannot be had, or are not those of a trained ResNet18.
    """
    if asked == "none":
        return {}, "none"
    if asked != "imagenet":
        if Path(asked).name != asked:
            raise InputError(
                f"train_resnet.weights: {asked} is a path, expected imagenet, none or the name of a file in {folder}: "
                "copy it there, where DVC notices when it changes"
            )
        return read_weights(folder / asked), asked
    try:
        weights = download_imagenet()
    except OSError as error:
        if may_go_without:
            print("WARNING: no ImageNet weights can be downloaded: on the sample, ResNet18 starts from random ones")
            return {}, "none"
        raise InputError(
            f"train_resnet.weights: imagenet cannot be downloaded ({error}); copy a file to {folder} by other means "
            "and name it (-S train_resnet.weights=NAME), or start from random weights (-S train_resnet.weights=none)"
        ) from None
    check_trained(weights, "imagenet")
    return weights, "imagenet"


def download_imagenet() -> dict[str, Tensor]:
    """Return torchvision's ResNet18 weights (IMAGENET1K_V1), the download's hash checked.

    Raises OSError offline, InputError where what is or was downloaded is not what it should be.
    """
    from torchvision.models import ResNet18_Weights  # takes as long as torch itself, and only a download needs it

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub passes none on
    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except OSError:
        raise
    except Exception:  # as in `read_weights`
        raise InputError(
            f"imagenet: what was downloaded to {torch.hub.get_dir()}/checkpoints is damaged: delete it and run again"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read ResNet18 weights from .safetensors, or from torch.save's format without running any code in it.

    Raises InputError where the file is missing, is neither, or holds no trained ResNet18.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            with open_tensors(path) as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            weights = load_plain(path)
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
    """Raise InputError unless `weights` are finite numbers, those of a ResNet18 that was trained.

    Its first convolution and its last layer may have other shapes.
    """
    from torchvision.models import resnet18  # as above; `nuclei.models.resnet` has the same layers and names

    with torch.device("meta"):  # shapes alone
        expected = {name: value.shape for name, value in resnet18().state_dict().items()}
    for name, shape in expected.items():
        if name == "conv1.weight" or name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        if name not in weights:
            raise InputError(f"{source}: not the weights of a ResNet18 ({name} is missing)")
        if weights[name].shape != shape:
            actual = tuple(weights[name].shape)
            raise InputError(f"{source}: not the weights of a ResNet18 ({name} is {actual}, expected {tuple(shape)})")
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    if len(means) != 20:
        raise InputError(f"{source}: not the weights of a ResNet18 ({len(means)} batch-norm layers, expected 20)")
    if sum(value.numel() for value in weights.values()) > MOST_VALUES:
        raise InputError(f"{source}: not the weights of a ResNet18 (more than {MOST_VALUES:,} numbers)")
    for name, value in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.layout != torch.strided or value.device.type == "meta" or value.dtype not in FLOATS:
            raise InputError(f"{source}: {name} holds no plain numbers ({value.dtype}): save it as float32")
        if not value.isfinite().all():
            raise InputError(f"{source}: {name} holds NaN or infinity: give weights that were trained well")
    if not any(mean.any() for mean in means):
        raise InputError(f"{source}: never trained (all batch-norm means are zero): give weights that were")
