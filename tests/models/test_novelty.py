"""A network that was trained on the crops of this project's sample, shown other pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from references import reference_of
from safetensors.torch import load_file, save_file
from tissue import tissue, write_model

from nuclei import load
from nuclei.data.cut import cut
from nuclei.errors import InputError
from nuclei.models.checkpoint import load_model, save_model
from nuclei.models.novelty import fit_reference, novelty, with_threshold
from nuclei.models.predict import predict_outputs

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
    """Its reference is that of every second crop, its threshold that of half of the others."""
    path, crops = write_model(tmp_path_factory.mktemp("model") / "model.safetensors"), nucleus_crops()
    model = load_model(path)
    reference = reference_of(model.network, model.architecture, crops[::2])
    outputs = predict_outputs(model.network, model.architecture, crops[1::4], CPU, "float32")
    reference = with_threshold(reference, novelty(reference, outputs.features))
    save_model(path, replace(model, reference=reference))
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
    train, new = rng.normal(size=(5000, 3)) * (1, 10, 100), np.diag([2.0, 20.0, 200.0])
    distances = novelty(fit_reference(train), new)
    inverse = np.linalg.inv(np.cov(train.T))
    expected = [np.sqrt(row @ inverse @ row) for row in new - train.mean(axis=0)]
    np.testing.assert_allclose(distances / distances[0], expected / expected[0], rtol=0.02)


@pytest.mark.parametrize("features", [np.zeros((20, 4)), np.ones((1, 4)), np.eye(4)[[0] * 10]], ids=["0", "1", "same"])
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
