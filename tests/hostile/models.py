"""Checkpoints and weights that swell, contradict themselves, hold no numbers, or are something else."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile.outcomes import Accepted, Cases, Refused
from references import reference_of
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN

TINY = SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2)
ARCHITECTURE = {"channels": 3, "filters": [4, 4, 8, 8], "widths": [8, 8], "dropout": 0.2, "classes": 4}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NO_FILE = "cannot be read (No such file or directory)"

Make = Callable[[Path], object]


def content(some: bytes) -> Make:
    return lambda path: path.write_bytes(some)


def not_plain(make: Make) -> Make:
    return lambda path: [path.unlink(missing_ok=True), make(path)]


def raw_safetensors(header: dict | bytes, body: bytes = b"", length: int | None = None) -> Make:
    """Write safetensors to the byte; `length`: what it says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return content(struct.pack("<Q", len(text) if length is None else length) + text + body)


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def vast(path: Path) -> None:
    """300 MB, of which the disk holds a few bytes."""
    raw_safetensors({"a": tensor(0, 300_000_000, [75_000_000])})(path)
    os.truncate(path, 8 + 100 + 300_000_000)


# Bytes that are no safetensors, whoever reads them.
SAFETENSORS: dict[str, Make] = {
    "a header that says it has 2**63 bytes": raw_safetensors({}, length=2**63),
    "a header that says it has 90 MB": raw_safetensors({}, length=90_000_000),
    "a header of 2 MB": raw_safetensors({f"tensor{number}": tensor(0, 0, [0]) for number in range(30_000)}),
    "a header that is a list": raw_safetensors(b"[]"),
    "a header that is no UTF-8": raw_safetensors(b'{"\xff": 1}'),
    "a header of 100,000 brackets": raw_safetensors(b"[" * 100_000),
    "a header without an end": raw_safetensors(b'{"a": {"dtype": "F32"'),
    "tensors that share bytes": raw_safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "a tensor beyond the end": raw_safetensors({"a": tensor(0, 4000, [1000])}, bytes(8)),
    "a tensor that ends before it starts": raw_safetensors({"a": tensor(8, 0, [2])}, bytes(8)),
    "a gap between tensors": raw_safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)),
    "bytes behind the tensors": raw_safetensors({"a": tensor(0, 4, [1])}, bytes(400)),
    "a shape of 2**64 numbers": raw_safetensors({"a": tensor(0, 4, [2**32, 2**32])}, bytes(4)),
    "a shape that is not its bytes": raw_safetensors({"a": tensor(0, 4, [5])}, bytes(4)),
    "a negative shape": raw_safetensors({"a": tensor(0, 4, [-1])}, bytes(4)),
    "an unknown kind of number": raw_safetensors({"a": tensor(0, 4, [1], "F33")}, bytes(4)),
    "metadata that is no text": raw_safetensors({"__metadata__": {"nuclei": [1]}}),
    "more than 256 MiB": vast,
    "a Git LFS pointer": content(LFS),
    "a page that asks to log in": content(b"<!doctype html><title>Log in</title>"),
    "a pickle": content(pickle.dumps({"a": 1})),
    "NumPy's format": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "torch's format": lambda path: torch.save({"a": torch.zeros(2)}, path),
    "HDF5": content(b"\x89HDF\r\n\x1a\n" + bytes(1000)),
    "a zip": content(b"PK\5\6" + bytes(18)),
}


def tiny_model(shape: SmallCNN = TINY) -> Model:
    network = build(shape, seed=0)
    return Model("cnn", network, shape, Calibration(), Calibration(), reference_of(network, shape))


def checkpoint(change: Callable[[dict, dict[str, Tensor]], object] = lambda description, tensors: None) -> Make:
    """Save a small model, changed in what it says of itself and in its weights."""

    def make(path: Path) -> None:
        save_model(path, tiny_model())
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["nuclei"])
        change(description, tensors)
        save_file(tensors, path, metadata={"nuclei": json.dumps(description)})

    return make


def says(**changes: Any) -> Make:
    return checkpoint(lambda description, tensors: description.update(changes))


def built(**changes: Any) -> Make:
    return says(architecture=ARCHITECTURE | changes)


def calibrated(views: str = "averaged", **changes: Any) -> Make:
    return checkpoint(lambda description, tensors: description[views].update(changes))


def among_neighbours(**changes: Any) -> Make:
    around = {"weights": [1.0] * 5, "thresholds": [0.5, 0.3, 0.1], "promised": [0.8, 0.9, 0.95]}
    return calibrated(neighbourhood=around | changes)


def metadata(some: dict[str, str] | None) -> Make:
    return lambda path: [checkpoint()(path), save_file(load_file(path), path, metadata=some)]


def weight(change: Callable[[Tensor], Tensor], name: str = "0.weight") -> Make:
    return checkpoint(lambda description, tensors: tensors.update({name: change(tensors[name])}))


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def no_model(why: str) -> Refused:
    return Refused(f"not a model of this project ({why}")


OTHER_SHAPES = no_model("weights of other shapes than its architecture has")
ITSELF = no_model("a SmallCNN has 1 or 3 channels, 4 filters, 2 widths, dropout below 1, a side of 32 to 1024")
UNREADABLE = Refused("not a readable safetensors file (")

BAD_TEMPERATURE = no_model("a temperature is not between 0.05 and 20")
BAD_WEIGHTS = no_model("expected 5 weights of neighbours between 0 and 20")
BAD_SHARES = no_model("expected 3 conformal thresholds and promises between 0 and 1")

CHECKPOINTS: Cases = {
    "a link to nothing": (not_plain(lambda path: path.symlink_to("nowhere")), Refused("no such file")),
    "a pipe": (not_plain(os.mkfifo), Refused("not a readable safetensors file ([Errno 22] Not a plain file")),
    "a device": (not_plain(lambda path: path.symlink_to("/dev/zero")), Refused("Not a plain file")),
    **{name: (make, UNREADABLE) for name, make in SAFETENSORS.items()},
    "no metadata": (metadata(None), no_model("'nuclei'")),
    "another program's metadata": (metadata({"format": "pt"}), no_model("'nuclei'")),
    "metadata that are a list": (metadata({"nuclei": "[1]"}), no_model("list indices")),
    "metadata that are a number": (metadata({"nuclei": "7"}), no_model("'int' object")),
    "metadata of 5,000 brackets": (metadata({"nuclei": "[" * 5000}), no_model("maximum recursion depth exceeded")),
    "metadata of 500,000 letters": (metadata({"nuclei": f'"{"x" * 500_000}"'}), no_model("endless metadata")),
    "metadata with a number of 5,000 digits": (metadata({"nuclei": "9" * 5000}), no_model("Exceeds the limit")),
    "a module's name for a network's": (says(name="os.system"), no_model("'os.system'")),
    "no name": (says(name=None), no_model("None")),
    "a list for a name": (says(name=["cnn"]), no_model("unhashable type: 'list'")),
    "14 GB of filters": (built(filters=[20_000] * 4), OTHER_SHAPES),
    "10**18 filters": (built(filters=[10**18] * 4), no_model("")),
    "a billion widths": (built(widths=[10**9, 10**9]), OTHER_SHAPES),
    "no filters": (built(filters=[]), ITSELF),
    "five filters": (built(filters=[4] * 5), ITSELF),
    "three widths": (built(widths=[8] * 3), ITSELF),
    "two channels": (built(channels=2), ITSELF),
    "3.0 channels": (built(channels=3.0), no_model("empty(): argument 'size' failed to unpack")),
    "a list of channels": (built(channels=[3]), ITSELF),
    "dropout that is not a number": (built(dropout=float("nan")), ITSELF),
    "a stem that is none": (
        says(name="resnet", architecture={"channels": 3, "stem": "vast", "classes": 4}),
        no_model("a backbone has 1 or 3 channels and a stem that is pretrained, no_pool or small"),
    ),
    "another network's weights": (
        says(name="resnet", architecture={"channels": 3, "stem": "small", "classes": 4}),
        OTHER_SHAPES,
    ),
    "a billion classes": (built(classes=10**9), OTHER_SHAPES),
    "five classes, and weights for them": (
        lambda path: save_model(path, tiny_model(replace(TINY, classes=5))),
        no_model("4 classes, and a network of 5"),
    ),
    "a temperature that is not a number": (
        calibrated(temperature=float("nan")),
        BAD_TEMPERATURE,
    ),
    "a negative temperature": (calibrated(temperature=-1.0), BAD_TEMPERATURE),
    "a temperature of 1e-310": (calibrated(temperature=1e-310), BAD_TEMPERATURE),
    "a temperature of 0.01": (calibrated(temperature=0.01), BAD_TEMPERATURE),
    "a temperature of 25.0": (calibrated(temperature=25.0), BAD_TEMPERATURE),
    "a temperature of 1e300": (calibrated(temperature=1e300), BAD_TEMPERATURE),
    "a temperature of 1e-310 for single views": (calibrated("single", temperature=1e-310), BAD_TEMPERATURE),
    "a list for a temperature": (calibrated(temperature=[1.0]), no_model("")),
    "no temperature": (calibrated(temperature=None), no_model("")),
    "no calibration": (says(single=None), no_model("")),
    "a number for a calibration": (says(averaged=1.0), no_model("")),
    "a calibration with something more": (calibrated(author="x"), no_model("")),
    "thresholds above 1": (calibrated(thresholds=[0.5, 0.3, 1.5]), BAD_SHARES),
    "a threshold that is not a number": (calibrated("single", thresholds=[0.5, float("nan"), 0.1]), BAD_SHARES),
    "weights of neighbours for three classes": (among_neighbours(weights=[1.0] * 4), BAD_WEIGHTS),
    "a negative weight of neighbours": (among_neighbours(weights=[1.0, 1.0, -1.0, 1.0, 1.0]), BAD_WEIGHTS),
    "an endless weight of neighbours": (among_neighbours(weights=[float("inf"), 1.0, 1.0, 1.0, 1.0]), BAD_WEIGHTS),
    "a threshold above 1 for neighbours": (among_neighbours(thresholds=[0.5, 0.3, 1.5]), BAD_SHARES),
    "words for neighbours": (calibrated(neighbourhood="none"), no_model("")),
    "two thresholds": (calibrated(thresholds=[0.5, 0.3]), BAD_SHARES),
    "no thresholds": (calibrated(thresholds=None), no_model("")),
    "words for thresholds": (calibrated(thresholds=["a", "b", "c"]), no_model("")),
    "a promise below 0": (calibrated("single", promised=[0.8, -0.9, 0.95]), BAD_SHARES),
    "three names for four classes": (says(classes=["a", "b", "c"]), no_model("3 classes, and a network of 4")),
    "a class without a name": (says(classes=["a", "b", "c", ""]), no_model("classes without a name")),
    "a class of escape codes": (says(classes=["a", "b", "c", "\x1b[2J"]), no_model("classes without a name")),
    "numbers for names": (says(classes=[0, 1, 2, 3]), no_model("classes without a name")),
    "crops of no size": (says(side=0), no_model("crops of no reasonable size")),
    "crops of 100,000 pixels a side": (says(side=100_000), no_model("crops of no reasonable size")),
    "crops of another side than the network's": (says(side=64), no_model("crops of another size than its network")),
    "crops of no resolution": (says(mpp=0), no_model("crops of no reasonable size")),
    "something more that it says": (says(author="x"), no_model("another description, or another normalisation")),
    "a weight that is not a number": (weight(with_one(float("nan"))), no_model("0.weight holds NaN or infinity")),
    "an endless weight": (weight(with_one(float("-inf"))), no_model("0.weight holds NaN or infinity")),
    "weights of 1e38": (weight(lambda value: 1e38 * value.sign()), no_model("it answers with NaN or infinity")),
    "a negative variance": (weight(with_one(-1), "1.running_var"), no_model("it answers with NaN or infinity")),
    "half precision": (weight(Tensor.half), no_model("0.weight is torch.float16, not torch.float32")),
    "double precision": (weight(Tensor.double), no_model("0.weight is torch.float64, not torch.float32")),
    "whole numbers": (weight(Tensor.char), no_model("0.weight is torch.int8, not torch.float32")),
    "a transposed weight": (weight(lambda value: value.transpose(0, 1).contiguous()), OTHER_SHAPES),
    "no numbers in a weight": (weight(lambda value: value[:0].clone()), OTHER_SHAPES),
    "a weight missing": (checkpoint(lambda description, tensors: tensors.pop("0.weight")), OTHER_SHAPES),
    "a weight too many": (
        checkpoint(lambda description, tensors: tensors.update(more=torch.zeros(1))),
        OTHER_SHAPES,
    ),
    "a weight by another name": (
        checkpoint(lambda description, tensors: tensors.update({"module.0.weight": tensors.pop("0.weight")})),
        OTHER_SHAPES,
    ),
    "a model without any change": (checkpoint(), Accepted("the other cases change this one")),
    "a link to a model": (
        lambda path: [checkpoint()(path), path.rename(path.parent / "else"), path.symlink_to("else")],
        Accepted("DVC may link into its cache"),
    ),
}


@cache
def trained() -> dict[str, Tensor]:
    """ResNet18 as torchvision would save it, in half precision: the smaller the faster."""
    state = resnet18(num_classes=4).half().state_dict()
    state["bn1.running_mean"] += 0.1
    return state


def saved(change: Callable[[dict], Any] = lambda weights: weights, **options: Any) -> Make:
    """Save what `change` makes of a good state dict, as torch.save does."""
    return lambda path: torch.save(change(dict(trained())), path, **options)


def with_weight(value: Any, name: str = "layer1.0.conv1.weight") -> Make:
    return saved(lambda weights: weights | {name: value})


def quantised(numbers: Tensor) -> Tensor:
    return torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8)


def repacked(path: Path, pickled: Callable[[bytes], bytes] = bytes, compression: int = 0) -> None:
    """Write torch's zip anew: another pickle in it, or its members compressed."""
    buffer = io.BytesIO()
    torch.save(trained(), buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled(old.read(name)) if name.endswith("data.pkl") else old.read(name))


def swollen(path: Path) -> None:
    """Three members of 100 MB, packed to nothing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(3):
            archive.writestr(f"archive/data/{number}", bytes(100_000_000))


def long_list(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(50_000_000)
        file.seek(50_000_000)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, 49_000_000, 100, 0))


def scripted(path: Path) -> None:
    with torch.jit.optimized_execution(False):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def vast_pickle(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**28 + 1)


NEITHER = Refused("neither safetensors nor plain tensors of torch.save; see train_resnet.weights")
NO_DICT = Refused("expected a state dict of tensors (name: tensor); see train_resnet.weights")
CONVOLUTION = "layer1.0.conv1.weight"
LARGE = Refused("cannot be read (larger than 256 MiB); see train_resnet.weights")

WEIGHTS: Cases = {
    "a link to nothing": (not_plain(lambda path: path.symlink_to("nowhere")), Refused(NO_FILE)),
    "a pipe": (not_plain(os.mkfifo), Refused("cannot be read (Not a plain file); see train_resnet.weights")),
    "a device": (not_plain(lambda path: path.symlink_to("/dev/zero")), Refused("cannot be read (Not a plain file)")),
    "more than 256 MiB": (vast_pickle, LARGE),
    "members that unpack to 300 MB": (swollen, NEITHER),
    "a list of members of 49 MB": (long_list, Refused("cannot be read (too many members); see train_resnet.weights")),
    "a pickle of 50 million lists": (content(b"\x80\2" + b"]" * 50_000_000), NEITHER),
    "a pickle of 2 MB within torch's zip": (lambda path: repacked(path, lambda old: old[:-1] + b"0" * 2**21), NEITHER),
    "a pickle of lists within torch's zip": (
        lambda path: repacked(path, lambda old: b"\x80\2" + b"]" * 10**6),
        NEITHER,
    ),
    "a number of 100,000 digits": (content(b"\x80\2\x8b" + struct.pack("<I", 10**5) + b"\x7f" * 10**5 + b"."), NEITHER),
    "text that says it has 4 GB": (content(b"\x80\2X\xff\xff\xff\xffabc"), NEITHER),
    "a pickle without an end": (content(b"\x80\2}"), NEITHER),
    "a model, not its weights": (lambda path: torch.save(nn.Linear(2, 2), path), NEITHER),
    "a program of torch": (scripted, NEITHER),
    "numbers of NumPy": (saved(lambda weights: weights | {"a": np.float64(1)}), NEITHER),
    "an array of NumPy": (saved(lambda weights: weights | {"a": np.zeros(2, object)}), NEITHER),
    "a list of tensors": (saved(lambda weights: list(weights.values())), NO_DICT),
    "weights within a checkpoint": (saved(lambda weights: {"model": weights, "epoch": 3}), NO_DICT),
    "HDF5": (content(b"\x89HDF\r\n\x1a\n" + bytes(1000)), NEITHER),
    "a Git LFS pointer": (content(LFS), NEITHER),
    "ONNX": (content(b"\x08\x08\x12\x07pytorch" + bytes(100)), NEITHER),
    "a tensor of a billion numbers from one": (
        with_weight(torch.zeros(1).expand(10**9)),
        Refused(f"not the weights of a ResNet18 ({CONVOLUTION} is (1000000000,), expected (64, 64, 3, 3))"),
    ),
    "a billion numbers from one, besides": (
        with_weight(torch.zeros(1).expand(10**9), "more"),
        Refused("not the weights of a ResNet18 (more than 35,097,396 numbers)"),
    ),
    "a sparse tensor": (
        with_weight(torch.ones(64, 64, 3, 3).to_sparse()),
        Refused(f"{CONVOLUTION} holds no plain numbers (torch.float32): save it as float32"),
    ),
    "a tensor without numbers": (
        with_weight(torch.ones(64, 64, 3, 3, device="meta")),
        Refused(f"{CONVOLUTION} holds no plain numbers (torch.float32): save it as float32"),
    ),
    "complex numbers": (
        with_weight(torch.ones(64, 64, 3, 3, dtype=torch.complex64)),
        Refused(f"{CONVOLUTION} holds no plain numbers (torch.complex64): save it as float32"),
    ),
    "quantised numbers": (
        saved(lambda weights: weights | {CONVOLUTION: quantised(torch.ones(64, 64, 3, 3))}),
        Refused(f"{CONVOLUTION} holds no plain numbers (torch.qint8): save it as float32"),
    ),
    "truths": (with_weight(torch.ones(64, 64, 3, 3) > 0), Refused("no plain numbers (torch.bool): save it as float32")),
    "numbers of 8 bits": (
        with_weight(torch.ones(64, 64, 3, 3).to(torch.float8_e4m3fn)),
        Refused("holds no plain numbers (torch.float8_e4m3fn): save it as float32"),
    ),
    "not a number": (
        with_weight(torch.full((64, 64, 3, 3), float("nan"))),
        Refused(f"{CONVOLUTION} holds NaN or infinity: give weights that were trained well"),
    ),
    "an endless number in the first convolution": (
        with_weight(torch.full((64, 3, 7, 7), float("inf")), "conv1.weight"),
        Refused("conv1.weight holds NaN or infinity: give weights that were trained well"),
    ),
    "a layer of another shape": (
        with_weight(torch.ones(64, 64, 1, 1)),
        Refused(f"not the weights of a ResNet18 ({CONVOLUTION} is (64, 64, 1, 1), expected (64, 64, 3, 3))"),
    ),
    "a layer missing": (
        saved(lambda weights: {name: value for name, value in weights.items() if name != CONVOLUTION}),
        Refused(f"not the weights of a ResNet18 ({CONVOLUTION} is missing)"),
    ),
    "names of a parallel model": (
        saved(lambda weights: {f"module.{name}": value for name, value in weights.items()}),
        Refused("not the weights of a ResNet18 (bn1.weight is missing)"),
    ),
    "a deeper network": (
        lambda path: torch.save(resnet34().half().state_dict(), path),
        Refused("not the weights of a ResNet18 (36 batch-norm layers, expected 20)"),
    ),
    "members compressed": (
        lambda path: repacked(path, compression=zipfile.ZIP_DEFLATED),
        Accepted("torch unpacks them; their size was judged before"),
    ),
    "torch's format of before 2020": (saved(_use_new_zipfile_serialization=False), Accepted("old files are so")),
    "half precision": (saved(), Accepted("it is widened where it is copied into the network")),
    "bfloat16": (
        saved(lambda weights: {name: value.bfloat16() for name, value in weights.items()}),
        Accepted("it is widened where it is copied into the network"),
    ),
    "parameters": (
        saved(lambda weights: weights | {CONVOLUTION: nn.Parameter(weights[CONVOLUTION])}),
        Accepted("parameters are tensors"),
    ),
    "an ordered dictionary": (saved(OrderedDict), Accepted("torch itself saves one")),
    "a grey first convolution": (
        with_weight(torch.ones(64, 1, 7, 7), "conv1.weight"),
        Accepted("the first convolution is judged when it is known how many channels the crops have"),
    ),
    "something besides": (with_weight(torch.zeros(3), "epoch"), Accepted("what is not asked for is left out")),
}


def in_safetensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Make:
    return lambda path: path.write_bytes(save(change(dict(trained()))))


WEIGHTS_AS_SAFETENSORS: Cases = {
    **{name: (make, LARGE if make is vast else NEITHER) for name, make in SAFETENSORS.items()},
    "a link to nothing": (not_plain(lambda path: path.symlink_to("nowhere")), Refused(NO_FILE)),
    "a pipe": (not_plain(os.mkfifo), Refused("cannot be read (Not a plain file)")),
    "no tensors": (raw_safetensors({}), Refused("not the weights of a ResNet18 (bn1.weight is missing)")),
    "not a number": (
        in_safetensors(lambda weights: weights | {CONVOLUTION: torch.full((64, 64, 3, 3), float("nan"))}),
        Refused(f"{CONVOLUTION} holds NaN or infinity: give weights that were trained well"),
    ),
    "whole numbers": (
        in_safetensors(lambda weights: weights | {CONVOLUTION: torch.ones(64, 64, 3, 3, dtype=torch.int32)}),
        Refused(f"{CONVOLUTION} holds no plain numbers (torch.int32): save it as float32"),
    ),
    "half precision": (in_safetensors(dict), Accepted("it is widened where it is copied into the network")),
}
