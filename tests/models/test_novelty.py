"""A network that was trained on crops of synthetic tissue is shown other pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from references import reference_of
from safetensors.torch import load_file, save_file
from tissue import tissue, write_model

from nuclei import load
from nuclei.crops import LabelledCrops
from nuclei.data.cut import cut
from nuclei.errors import InputError
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, load_model, save_model
from nuclei.models.networks import build
from nuclei.models.novelty import fit_reference, novelty, with_threshold
from nuclei.models.predict import predict_outputs
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import load_params
from nuclei.training.loop import TrainConfig, fit

CPU = torch.device("cpu")


def cut_anywhere(picture, n=20):
    picture = np.broadcast_to(picture[..., None], (*picture.shape, 3)) if picture.ndim == 2 else picture
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, size - 99, n) for size in picture.shape[:2])
    return np.stack([picture[y : y + 100, x : x + 100] for y, x in zip(rows, columns, strict=True)])


def nucleus_crops():
    pixels, nuclei = tissue()
    return np.stack([cut(pixels, y, x, 100) for y, x in nuclei[["y", "x"]].to_numpy()])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """It is trained on every second crop of two tiles; its threshold is that of half of the others."""
    crops, labels = nucleus_crops(), tissue()[1].label.to_numpy(np.int64)
    shape = SmallCNN(3, (8, 16, 32, 32), (16, 16), 0.0)
    network, train_set = build(shape, seed=0), LabelledCrops(crops[::2], labels[::2])
    config = TrainConfig(0.003, 16, 2 * len(train_set) // 16, 0, 0.0, load_params(Path("params.yaml")).train)
    for _ in fit(network, train_set, None, config, CPU):
        pass
    reference = reference_of(network.eval(), shape, train_set.crops)
    outputs = predict_outputs(network, shape, crops[1::4], CPU, "float32")
    reference = with_threshold(reference, novelty(reference, outputs.features))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, Model("cnn", network, shape, Calibration(), Calibration(), reference))
    return path


OTHERS = {
    "immunohistochemistry": lambda: cut_anywhere(skimage.data.immunohistochemistry()),
    "a cat": lambda: cut_anywhere(skimage.data.chelsea()),
    "text": lambda: cut_anywhere(skimage.data.text()),
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (20, 100, 100, 3)).astype(np.uint8),
    "inverted colours": lambda: 255 - nucleus_crops()[:20],
    "blank glass": lambda: np.full((20, 100, 100, 3), 240, np.uint8),
}


def test_few_crops_that_it_never_saw_are_unlike(model):
    assert (load(model, tta=False).novelty(nucleus_crops()[3::4]) > 1).mean() < 0.1


@pytest.mark.parametrize("name", OTHERS)
def test_other_pictures_are_unlike(name, model):
    assert (load(model, tta=False).novelty(OTHERS[name]()) > 1).mean() > 0.9


def test_novelty_is_the_same_with_and_without_averaging_and_the_mean_of_several_models(model, tmp_path):
    crops = nucleus_crops()[:10]
    plain, averaged = (load(model, tta=tta).novelty(crops) for tta in (False, True))
    assert plain.shape == (10,) and plain.dtype == np.float32
    np.testing.assert_allclose(plain, averaged, rtol=1e-4)
    second = write_model(tmp_path / "second.safetensors", seed=1)
    both = load(model, second, tta=False).novelty(crops)
    np.testing.assert_allclose(both, (plain + load(second, tta=False).novelty(crops)) / 2, rtol=1e-5)
    assert load(model).novelty(crops[:0]).shape == (0,)


def test_a_hundredth_of_the_held_out_crops_is_above_the_threshold():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    train, heldout, new = (rng.normal(size=(n, 6)) @ mixing for n in (2000, 5000, 5000))
    reference = fit_reference(train)
    assert np.median(novelty(reference, train)) == pytest.approx(1, abs=1e-5)
    reference = with_threshold(reference, novelty(reference, heldout))
    assert (novelty(reference, heldout) > 1).mean() == pytest.approx(0.01, abs=1e-3)
    assert (novelty(reference, new) > 1).mean() == pytest.approx(0.01, abs=4e-3)


def test_novelty_is_the_mahalanobis_distance_in_one_unit():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.5, 0.7]])
    train, new = rng.normal(size=(5000, 3)) @ mixing, 5 * np.eye(3)
    distances = novelty(fit_reference(train), new)
    inverse = np.linalg.inv(np.cov(train.T))
    expected = [np.sqrt(row @ inverse @ row) for row in new - train.mean(axis=0)]
    np.testing.assert_allclose(distances / distances[0], np.array(expected) / expected[0], rtol=0.03)


@pytest.mark.parametrize("features", [np.zeros((20, 4)), np.eye(4)[[0] * 10]], ids=["zero", "the same"])
def test_features_that_never_vary_give_finite_numbers(features):
    reference = fit_reference(features.astype(np.float32))
    assert np.isfinite(novelty(with_threshold(reference, np.zeros(3)), np.ones((2, 4), np.float32))).all()


def nan(tensors):
    tensors["reference.mean"][0] = torch.nan


def other_shape(tensors):
    tensors |= {"reference.mean": torch.zeros(3), "reference.whitening": torch.eye(3)}


CHANGES = {
    "of an earlier version": lambda tensors: tensors.pop("reference.mean"),
    "reference of shapes": lambda tensors: tensors.update({"reference.mean": torch.zeros(3)}),
    "holds NaN": nan,
    "not float32": lambda tensors: tensors.update({"reference.mean": tensors["reference.mean"].double()}),
    "not triangular": lambda tensors: tensors["reference.whitening"].neg_(),
    "feature maps, and a reference of 3": other_shape,
}


@pytest.mark.parametrize("reason", CHANGES)
def test_references_that_do_not_fit_are_refused(reason, model, tmp_path):
    tensors = load_file(model)
    CHANGES[reason](tensors)
    description = json.loads(model.read_bytes()[8 : 8 + int.from_bytes(model.read_bytes()[:8], "little")])
    save_file(tensors, tmp_path / "model.safetensors", metadata=description["__metadata__"])
    with pytest.raises(InputError, match=rf"not a model of this project \(.*{reason}.*train it again"):
        load_model(tmp_path / "model.safetensors")
