"""A model as ONNX: uint8 crops in, calibrated probabilities out, for programs that know nothing of PyTorch."""

import json
import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported: nothing here talks to a network

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401  torch.onnx needs it
import torch
from torch import Tensor, nn

from nuclei.data.cut import cut, window
from nuclei.data.images import as_channels
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.errors import InputError
from nuclei.files import atomic_write
from nuclei.models.checkpoint import Model
from nuclei.models.transforms import normalise
from nuclei.task import MPP, Task

onnxruntime.disable_telemetry_events()

TOLERANCE = 1e-4  # of a probability, between ONNX Runtime and PyTorch


class Deployed(nn.Module):
    """A model with its normalisation and its temperature for single views."""

    def __init__(self, model: Model):
        super().__init__()
        self.network = model.network
        self.temperature = model.single.temperature

    def forward(self, crops: Tensor) -> Tensor:
        """Return probabilities, float32 (N, K), of crops, uint8 (N, side, side, C)."""
        return torch.softmax(self.network(normalise(crops)) / self.temperature, dim=1)


def export_onnx(model: Model, path: Path) -> float:
    """Write a model as ONNX: input `crops`, uint8 (N, side, side, C), any N; output `probabilities`, float32 (N, K).

    No flips and rotations are averaged. The metadata name the classes and the microns per pixel. The same model and
    versions, the same bytes.

    Args:
        model: What is written.
        path: Of the file.

    Returns:
        The largest difference of a probability from PyTorch's, on crops of synthetic tissue.

    Raises:
        InputError: It is more than 1e-4; nothing is written.
    """
    task = model.task
    crops = torch.zeros(2, task.side, task.side, model.architecture.channels, dtype=torch.uint8)
    program = torch.onnx.export(
        Deployed(model).eval(),
        (crops,),
        input_names=["crops"],
        output_names=["probabilities"],
        dynamic_shapes={"crops": {0: torch.export.Dim("N")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # as dynamo=True
    proto = program.model_proto
    _forget_origin(proto.graph)
    onnx.helper.set_model_props(proto, {"classes": json.dumps(task.classes), "mpp": str(task.mpp)})
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        difference = largest_difference(model, temporary, _example_crops(task, model.architecture.channels))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{path}: would differ from PyTorch by {difference:.2g}, more than {TOLERANCE}: not written"
            )
    return difference


def _forget_origin(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes, among them lines and paths of the source."""
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _example_crops(task: Task, channels: int) -> np.ndarray:
    tile, nuclei = draw_tile(np.random.default_rng(0), draw_stain(np.random.default_rng(0)), cancer=True)
    centres = zip(nuclei.y, nuclei.x, strict=True)
    return np.stack([as_channels(cut(tile, y, x, window(MPP, task), task.side), channels) for y, x in centres])


def largest_difference(model: Model, path: Path, crops: np.ndarray) -> float:
    """Return the largest difference of a probability between an ONNX file and PyTorch, both in float32 on the CPU.

    Args:
        model: As PyTorch has it.
        path: Of the ONNX file.
        crops: uint8 (N, side, side, C).
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"crops": crops})
    with torch.inference_mode():
        expected = Deployed(model).eval()(torch.from_numpy(crops)).numpy()
    return float(np.abs(probabilities - expected).max())
