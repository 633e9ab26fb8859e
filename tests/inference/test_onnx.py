import io
import json
from contextlib import redirect_stdout

import numpy as np
import onnx
import onnxruntime
import pytest
from references import NO_REFERENCE
from tissue import some_crops, write_model

from nuclei import load
from nuclei.cli import act
from nuclei.errors import InputError
from nuclei.inference.onnx import TOLERANCE, export_onnx, largest_difference
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, load_model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.task import CLASSES


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its ONNX file, and what `nuclei export` said."""
    folder = tmp_path_factory.mktemp("onnx")
    model = write_model(folder / "model.safetensors")
    with redirect_stdout(io.StringIO()) as out:
        act(["export", str(model), str(folder / "model.onnx")])
    return model, folder / "model.onnx", out.getvalue()


@pytest.mark.parametrize("n", [1, 2, 33])
def test_onnx_runtime_gives_the_probabilities_of_pytorch(n, exported):
    model, path, said = exported
    crops = some_crops(n)
    session = onnxruntime.InferenceSession(path)
    (probabilities,) = session.run(None, {"crops": crops})
    assert probabilities.shape == (n, len(CLASSES)) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, load(model, precision="float32", tta=False).predict(crops), atol=1e-5)
    assert largest_difference(load_model(model), path, crops) <= TOLERANCE
    start = f"{path}: probabilities differ from PyTorch's by "
    assert said.startswith(start) and float(said.removeprefix(start).split()[0]) <= TOLERANCE


def test_the_file_says_what_goes_in_and_out(exported):
    session = onnxruntime.InferenceSession(exported[1])
    (crops,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (crops.name, crops.type, crops.shape) == ("crops", "tensor(uint8)", ["N", 100, 100, 3])
    assert (probabilities.name, probabilities.type, probabilities.shape) == ("probabilities", "tensor(float)", ["N", 4])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == list(CLASSES)
    assert float(properties["mpp"]) == 0.25


def test_the_same_model_gives_the_same_bytes_without_a_trace_of_the_machine(exported, tmp_path):
    model, path, _ = exported
    export_onnx(load_model(model), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    nodes = onnx.load(path).graph.node
    assert len(nodes) > 5 and not any(node.metadata_props or node.doc_string for node in nodes)
    assert b".py" not in path.read_bytes()


@pytest.mark.parametrize(
    "shape", [Backbone(3, "resnet18", "pretrained", size=64), SmallCNN(1, (4, 4, 8, 8), (8, 8), 0.2)], ids=str
)
def test_resnets_and_grey_models_can_be_exported(shape, tmp_path):
    calibrations = Calibration(temperature=2.5), Calibration(temperature=1.5)  # of averaged and of single views
    model = Model("cnn", build(shape, seed=0).eval(), shape, *calibrations, NO_REFERENCE)
    assert export_onnx(model, tmp_path / "model.onnx") <= TOLERANCE
    assert largest_difference(model, tmp_path / "model.onnx", some_crops(3, shape.channels)) <= TOLERANCE


def test_a_file_that_differs_from_pytorch_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.inference.onnx.TOLERANCE", -1.0)
    with pytest.raises(InputError, match=r"model\.onnx: would differ from PyTorch by .*: not written"):
        export_onnx(load_model(exported[0]), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
