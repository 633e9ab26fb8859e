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
from nuclei.models.calibration import TARGETS, Calibration, Neighbourhood
from nuclei.models.neighbours import MOST_WEIGHT
from nuclei.models.networks import Architecture, architecture_class, build, watch
from nuclei.models.novelty import Reference, require_reference
from nuclei.models.temperature import TEMPERATURES
from nuclei.models.transforms import MEAN, STD
from nuclei.task import COLON, LONGEST_CLASS, MOST_CLASSES, Task
from nuclei.tensors import open_tensors, write_tensors

LONGEST_DESCRIPTION = 10_000  # characters
REFERENCE = ("reference.mean", "reference.whitening")  # tensors beside the weights


@dataclass(frozen=True)
class Model:
    """A trained network with all that predicting needs.

    Attributes:
        name: Its key in `nuclei.task.NETWORKS`.
        network: In evaluation mode.
        architecture: What the network was built from.
        averaged: For logits that are averaged over the eight flips and rotations of a crop.
        single: For those of the crop as it is, which are noisier and mostly larger.
        reference: The crops that it was trained on, to tell what is unlike them.
        task: Its classes, and the size and resolution of its crops.
    """

    name: str
    network: nn.Module
    architecture: Architecture
    averaged: Calibration
    single: Calibration
    reference: Reference
    task: Task = COLON

    def calibration(self, tta: bool) -> Calibration:
        """Return that of averaged logits (tta), or of the crop as it is."""
        return self.averaged if tta else self.single


def save_model(path: Path, model: Model) -> None:
    """Write the weights, with all else that predicting needs in the metadata; byte-identical on a rerun.

    Args:
        path: Of the safetensors file.
        model: What is written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    tensors |= zip(REFERENCE, (model.reference.mean, model.reference.whitening), strict=True)
    write_tensors(path, tensors, {"nuclei": json.dumps(_describe(model))})


def _describe(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "architecture": asdict(model.architecture),
        "classes": model.task.classes,
        "side": model.task.side,
        "mpp": model.task.mpp,
        "mean": MEAN[model.architecture.channels],
        "std": STD[model.architecture.channels],
        "averaged": asdict(model.averaged),
        "single": asdict(model.single),
    }


def load_model(path: Path) -> Model:
    """Build the model that a file describes; nothing larger than the file is built to find out that it does not fit.

    Args:
        path: What `save_model` wrote.

    Returns:
        The model, its network in evaluation mode.

    Raises:
        InputError: The file cannot be read, or is no model of this project.
    """
    try:
        with open_tensors(path) as file:
            text = (file.metadata() or {})["nuclei"]
            if len(text) > LONGEST_DESCRIPTION:
                raise ValueError(f"endless metadata: more than {LONGEST_DESCRIPTION:,} characters")
            description = json.loads(text)
            name = description["name"]
            architecture = architecture_class(name)(**_tuples(description["architecture"]))
            task = Task(tuple(description["classes"]), description["side"], description["mpp"])
            averaged, single = (_calibration(description[views]) for views in ("averaged", "single"))
            with torch.device("meta"):  # shapes alone
                expected = {key: value.shape for key, value in build(architecture, seed=0).state_dict().items()}
            shapes = {key: torch.Size(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            if {key: shape for key, shape in shapes.items() if key not in REFERENCE} != expected:
                raise ValueError("weights of other shapes than its architecture has")
            if not shapes.keys() >= {*REFERENCE}:
                raise ValueError("of an earlier version: it does not tell what its training crops were like")
            tensors = {key: file.get_tensor(key) for key in expected}
            reference = Reference(*(file.get_tensor(key) for key in REFERENCE))
        model = Model(name, build(architecture, seed=0).eval(), architecture, averaged, single, reference, task)
        _require_task(task, architecture)
        if description != json.loads(json.dumps(_describe(model))):
            raise ValueError("another description, or another normalisation")
        for calibration in (averaged, single):
            _require_calibration(calibration, architecture.classes)
        for key, value in model.network.state_dict().items():
            if tensors[key].dtype != value.dtype:
                raise ValueError(f"{key} is {tensors[key].dtype}, not {value.dtype}")
            if not tensors[key].isfinite().all():
                raise ValueError(f"{key} holds NaN or infinity")
        require_reference(reference)
        model.network.load_state_dict(tensors)
        with torch.inference_mode():
            shape = (1, architecture.channels, task.side, task.side)
            ramp = torch.linspace(-2, 2, math.prod(shape)).view(shape)
            with watch(model.network, architecture) as (_, features):
                if not model.network(ramp).isfinite().all():
                    raise ValueError("it answers with NaN or infinity")
            if features[0].shape[1] != len(reference.mean):
                raise ValueError(f"{features[0].shape[1]} feature maps, and a reference of {len(reference.mean)}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: train the network first, or correct the path") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}): copy or train it again") from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a model of this project ({reason}): copy or train it again") from None
    return model


def _calibration(fields: dict[str, Any]) -> Calibration:
    if "neighbourhood" not in fields:
        raise ValueError("of an earlier version: it does not tell how much neighbours count")
    around = fields["neighbourhood"]
    neighbourhood = None if around is None else Neighbourhood(**_tuples(around))
    return Calibration(**_tuples(fields) | {"neighbourhood": neighbourhood})


def _require_calibration(calibration: Calibration, classes: int) -> None:
    """Raise ValueError where what turns logits into probabilities and sets is out of range."""
    low, high = TEMPERATURES
    if not low <= calibration.temperature <= high:
        raise ValueError(f"a temperature is not between {low:g} and {high:g}")
    around = calibration.neighbourhood
    if around and not (len(around.weights) == 1 + classes and all(0 <= w <= MOST_WEIGHT for w in around.weights)):
        raise ValueError(f"expected {1 + classes} weights of neighbours between 0 and {MOST_WEIGHT:g}")
    shares = [calibration.thresholds, calibration.promised, *([around.thresholds, around.promised] if around else [])]
    if not all(len(values) == len(TARGETS) and all(0 <= value <= 1 for value in values) for values in shares):
        raise ValueError(f"expected {len(TARGETS)} conformal thresholds and promises between 0 and 1")


def _require_task(task: Task, architecture: Architecture) -> None:
    """Raise ValueError unless a file's classes are names, as many as the network has, and its crops can be cut."""
    names = task.classes
    if not 2 <= len(names) <= MOST_CLASSES or len(names) != architecture.classes:
        raise ValueError(f"{len(names)} classes, and a network of {architecture.classes}")
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_CLASS and name.isprintable() for name in names):
        raise ValueError("classes without a name")
    if not (isinstance(task.side, int) and 16 <= task.side <= 1024 and 0.05 <= task.mpp <= 4):
        raise ValueError("crops of no reasonable size")
    if getattr(architecture, "side", task.side) != task.side:
        raise ValueError("crops of another size than its network takes")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists of JSON into the tuples that a frozen dataclass has."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def load_fold_models(folder: Path) -> dict[int, Model]:
    """Load the model of each held-out fold, by its number.

    Args:
        folder: That of one network, written by `nuclei.training.train.save_trained`.

    Raises:
        InputError: There is none, or it is no model.
    """
    paths = {int(path.stem.removeprefix("fold_")): path for path in folder.glob("fold_*.safetensors")}
    if not paths:
        raise InputError(f"{folder}: expected fold_0.safetensors and others, found none: train the network again")
    return {fold: load_model(paths[fold]) for fold in sorted(paths)}
