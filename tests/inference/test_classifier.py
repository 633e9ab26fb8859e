import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch
from tissue import some_crops, write_model

import nuclei
from nuclei import load
from nuclei.errors import InputError
from nuclei.inference.classifier import AT_ONCE, load_classifier
from nuclei.models.checkpoint import load_model
from nuclei.models.predict import predict_probabilities
from nuclei.task import CLASSES


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.safetensors")


def test_the_example_in_the_documentation_works(tmp_path, monkeypatch):
    write_model(tmp_path / "resnet.safetensors")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(nuclei)
    assert found.attempted >= 6 and not found.failed


def test_importing_the_package_stays_cheap():
    code = (
        "import sys, nuclei; nuclei.load; print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_probabilities_are_those_of_the_pipeline(model):
    plain = load_model(model)
    for tta in (True, False):
        probabilities = load(model, tta=tta).predict(some_crops(20))
        expected = predict_probabilities(plain, some_crops(20), torch.device("cpu"), "auto", tta)
        assert probabilities.shape == (20, len(CLASSES)) and probabilities.dtype == np.float32
        assert np.array_equal(probabilities, expected.astype(np.float32))
    assert (probabilities.max(axis=1) > 0.5).any()
    assert len(set(probabilities.argmax(axis=1))) > 1


def test_a_higher_temperature_makes_less_sure(tmp_path):
    sure, unsure = (load(write_model(tmp_path / f"{t}.safetensors", temperature=t), tta=False) for t in (0.3, 3.0))
    sure, unsure = (model.predict(some_crops(20)) for model in (sure, unsure))
    assert np.array_equal(sure.argmax(axis=1), unsure.argmax(axis=1))
    assert (sure.max(axis=1) > unsure.max(axis=1)).all()


def test_several_models_are_averaged(tmp_path):
    paths = [write_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    first, second = (load(path, tta=False).predict(some_crops(20)) for path in paths)
    assert np.abs(first - second).max() > 0.1
    assert np.allclose(load(*paths, tta=False).predict(some_crops(20)), (first + second) / 2, atol=1e-6)


def test_grey_models_take_grey_crops(tmp_path):
    grey = load(write_model(tmp_path / "grey.safetensors", channels=1))
    assert grey.predict(some_crops(3, 1)).shape == (3, 4)
    with pytest.raises(InputError, match="grey and of RGB crops cannot be averaged"):
        load(tmp_path / "grey.safetensors", write_model(tmp_path / "rgb.safetensors"))


def test_no_crops_give_no_rows(model):
    assert load(model).predict(some_crops(1)[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        some_crops(1).astype(np.float32) / 255,
        some_crops(1)[0],
        some_crops(1)[:, :50],
        some_crops(3, 1),
        some_crops(1).transpose(0, 3, 1, 2),
    ],
)
def test_crops_of_another_kind_are_refused(wrong, model):
    with pytest.raises(ValueError, match=r"expected crops of uint8 \(N, 100, 100, 3\), got"):
        load(model).predict(wrong)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match=r"text\.safetensors: not a readable safetensors file"):
        load(str(tmp_path / "text.safetensors"))


def test_a_stream_of_crops_gets_its_answers_in_order(model):
    classifier = load_classifier([model], tta=False)
    some = some_crops(40)
    n = AT_ONCE + 40
    found = list(classifier.predict_all((row, some[row % 40]) for row in range(n)))
    assert [len(keys) for keys, _ in found] == [AT_ONCE, 40]
    assert [key for keys, _ in found for key in keys] == list(range(n))
    probabilities = np.concatenate([chances for _, chances in found])
    assert np.allclose(probabilities, classifier.predict(some)[np.arange(n) % 40], atol=1e-5)


def test_a_bad_crop_in_a_stream_is_reported(model):
    def stream():
        yield 0, some_crops(1)[0]
        raise InputError("crop 1 is damaged")

    with pytest.raises(InputError, match="crop 1 is damaged"):
        list(load(model).predict_all(stream()))
