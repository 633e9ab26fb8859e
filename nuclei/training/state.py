"""What an interrupted run left behind, for the next one to go on from; worthless where anything differs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import nuclei
from nuclei.files import atomic_write

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")  # that results come from
# All code that a training comes from, and no more: a reworded report does not void what an interrupted run has done.
CODE = ("models", "training", "crops.py", "device.py", "task.py")


def fingerprint(arrays: Iterable[np.ndarray], *settings: Any) -> str:
    """Hash what a training comes from; code, versions of packages and the number of threads are among it.

    Args:
        arrays: Of any shape and type.
        *settings: Anything whose repr says what it is.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([settings, [version(name) for name in PACKAGES], torch.get_num_threads()]).encode())
    package = Path(nuclei.__file__).parent
    paths = {path for name in CODE for path in [package / name, *(package / name).rglob("*.py")]}
    for path in sorted(paths):
        if path.is_file():
            digest.update(path.read_bytes())
    for array in arrays:
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def pack(key: str, state: Any) -> bytes:
    """Turn nested mappings and lists of tensors, and of what JSON holds, into a safetensors file.

    Args:
        key: The fingerprint of what the state belongs to.
        state: Its mappings may have numbers as keys.

    Returns:
        The bytes of the file.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"key": key, "state": _pack(state, tensors)})  # fills `tensors`
    return save(tensors, {"state": text})


def unpack(data: bytes, key: str) -> Any:
    """Return what `pack` was given.

    Args:
        data: Anything, also what `pack` did not return.
        key: The fingerprint that is expected.

    Returns:
        The state, tensors on the CPU; None where it was packed under another key, or not packed.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        packed = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
        if packed["key"] == key:
            return _unpack(packed["state"], load(data))
    except (SafetensorError, KeyError, TypeError, ValueError):
        pass  # what another program left there: this run starts from the beginning
    return None


def write_state(path: Path, data: bytes) -> None:
    """Write a state, whole or not at all.

    Args:
        path: Of the file.
        data: What `pack` returned.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_state(path: Path) -> bytes:
    """Return the bytes of the file `path`; no bytes where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of `value` to `tensors`; what stays is JSON, in which keys may be numbers."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name, "strides": value.stride()}
    if isinstance(value, Mapping):
        return {"keys": list(value), "values": [_pack(item, tensors) for item in value.values()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        flat = tensors[value["tensor"]]
        # The fused optimizer needs its moving averages in the memory layout of the weights.
        return torch.empty_strided(flat.shape, value["strides"], dtype=flat.dtype).copy_(flat)
    return dict(zip(value["keys"], (_unpack(item, tensors) for item in value["values"]), strict=True))
