"""Trained networks on disk: safetensors files that say in their metadata what they are."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from nuclei.errors import InputError
from nuclei.models.networks import Architecture, ResNet18, SmallCNN, build
from nuclei.models.transforms import MEAN, STD
from nuclei.task import CLASSES
from nuclei.tensors import open_tensors, write_tensors

LONGEST_DESCRIPTION = 10_000  # characters


@dataclass(frozen=True)
class Model:
    """A trained network, its architecture, and the temperature by which its logits are divided (Guo et al. 2017)."""

    network: nn.Module
    architecture: Architecture
    temperature: float = 1.0


def save_model(path: Path, model: Model) -> None:
    """Write the weights, with all else that predicting needs in the metadata. Byte-identical on a rerun."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    write_tensors(path, tensors, {"nuclei": json.dumps(_describe(model))})


def _describe(model: Model) -> dict[str, Any]:
    return {
        "kind": type(model.architecture).__name__,
        "architecture": asdict(model.architecture),
        "classes": CLASSES,
        "mean": MEAN[model.architecture.channels],
        "std": STD[model.architecture.channels],
        "temperature": model.temperature,
    }


def load_model(path: Path) -> Model:
    """Build the model that `path` describes, its network in evaluation mode.

    Raises InputError. Nothing larger than the file is built to find out that it does not fit.
    """
    try:
        with open_tensors(path) as file:
            text = (file.metadata() or {})["nuclei"]
            if len(text) > LONGEST_DESCRIPTION:
                raise ValueError("endless metadata")
            description = json.loads(text)
            kind = {"SmallCNN": SmallCNN, "ResNet18": ResNet18}[description["kind"]]
            fields = description["architecture"].items()
            architecture = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields})
            with torch.device("meta"):  # shapes alone
                expected = {name: value.shape for name, value in build(architecture, seed=0).state_dict().items()}
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != expected:
                raise ValueError("weights of other shapes than its architecture has")
            tensors = {name: file.get_tensor(name) for name in expected}
        model = Model(build(architecture, seed=0).eval(), architecture, description["temperature"])
        if description != json.loads(json.dumps(_describe(model))):
            raise ValueError("other classes or another normalisation")
        if not 0 < model.temperature < math.inf:
            raise ValueError("the temperature is not a positive number")
        for name, value in model.network.state_dict().items():
            if tensors[name].dtype != value.dtype:
                raise ValueError(f"{name} is {tensors[name].dtype}, not {value.dtype}")
            if not tensors[name].isfinite().all():
                raise ValueError(f"{name} holds NaN or infinity")
        model.network.load_state_dict(tensors)
        with torch.inference_mode():
            ramp = torch.linspace(-2, 2, architecture.channels * 10_000).view(1, architecture.channels, 100, 100)
            if not model.network(ramp).isfinite().all():
                raise ValueError("it answers with NaN or infinity")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}): copy or train it again") from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a model of this project ({reason}): copy or train it again") from None
    return model
