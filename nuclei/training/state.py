"""What a run that was cut short left behind, for the next one to go on from; worthless where anything differs."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import nuclei
from nuclei.tensors import open_tensors

COMPUTING = ("torch", "torchvision", "numpy", "scikit-learn")  # the packages that results come from


def fingerprint(arrays: Iterable[np.ndarray], *settings: Any) -> str:
    """Hash what a result comes from: arrays, settings (by their repr), this package's code, versions, threads."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([settings, [version(name) for name in COMPUTING], torch.get_num_threads()]).encode())
    for path in sorted(Path(nuclei.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for array in arrays:
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def save_state(path: Path, key: str, state: Any) -> None:
    """Write `state`, nested mappings and lists of tensors and of what JSON holds, in the place of an earlier one.

    key: the fingerprint of what it belongs to. The file is whole or not there: safetensors renames it into place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"key": key, "state": _pack(state, tensors)})
    try:
        save_file(tensors, path, {"state": text})
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


def load_state(path: Path, key: str) -> Any:
    """Return what `save_state` wrote under the same `key`, tensors on the CPU; None where there is no such state."""
    try:
        with open_tensors(path) as file:
            kept = json.loads(file.metadata()["state"])
            if kept["key"] == key:
                return _unpack(kept["state"], file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # none, or what another program left there: this run starts from the beginning
    return None


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of `value` to `tensors`; what stays is JSON, in which keys may be numbers."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name, "strides": value.stride()}
    if isinstance(value, Mapping):
        return {"keys": list(value), "values": [_pack(some, tensors) for some in value.values()]}
    if isinstance(value, list | tuple):
        return [_pack(some, tensors) for some in value]
    return value


def _unpack(value: Any, tensors: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(some, tensors) for some in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        flat = tensors.get_tensor(value["tensor"])
        # The fused optimizer takes for granted that its averages lie in memory as the weights do.
        return torch.empty_strided(flat.shape, value["strides"], dtype=flat.dtype).copy_(flat)
    return dict(zip(value["keys"], (_unpack(some, tensors) for some in value["values"]), strict=True))
