import warnings

import numpy as np
import pytest
import torch
from references import NO_REFERENCE
from torch import nn

from nuclei.device import Compute
from nuclei.models.calibration import Calibration, Neighbourhood
from nuclei.models.checkpoint import Model
from nuclei.models.predict import BATCH_SIZE, neighbour_weights, predict_logits, predict_mean, predict_probabilities
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.temperature import softmax
from nuclei.models.transforms import flip_rotate, normalise

CPU = torch.device("cpu")


def lopsided_network(seed=0):
    """Answers otherwise to a turned crop, and otherwise in training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(4)
        )


def random_crops(n):
    return np.random.default_rng(0).integers(0, 256, (n, 12, 12, 3)).astype(np.uint8)


@pytest.fixture
def network():
    network = lopsided_network()
    network(normalise(torch.from_numpy(random_crops(64))))  # moves the batch-norm statistics
    return network


def test_logits_are_those_of_the_network_in_evaluation_mode(network):
    crops = random_crops(5)
    logits = predict_logits(network.train(), crops, CPU, "float32")
    assert logits.shape == (5, 4) and logits.dtype == np.float32
    with torch.inference_mode():
        expected = network.eval()(normalise(torch.from_numpy(crops)))
    assert np.array_equal(logits, expected.numpy())


def test_predicting_leaves_the_weights_and_statistics_alone(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predict_logits(network.train(), random_crops(5), CPU, "float32", tta=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_tta_is_the_mean_of_the_eight_views(network):
    crops = random_crops(5)
    views = [
        predict_logits(network, flip_rotate(torch.from_numpy(crops), torch.full((5,), code)).numpy(), CPU, "float32")
        for code in range(8)
    ]
    assert np.std(views, axis=0).min() > 1e-3  # the views disagree
    averaged = predict_logits(network, crops, CPU, "float32", tta=True)
    np.testing.assert_allclose(averaged, np.mean(views, axis=0), atol=1e-5)


@pytest.mark.parametrize("n", [1, BATCH_SIZE, 2 * BATCH_SIZE + 3])
def test_every_crop_gets_its_logits_whatever_the_batches(network, n):
    crops = random_crops(n)
    logits = predict_logits(network, crops, CPU, "float32")
    assert logits.shape == (n, 4)
    alone = predict_logits(network, crops[-1:], CPU, "float32")
    np.testing.assert_allclose(logits[-1:], alone, atol=1e-5)


def test_memory_mapped_crops_are_read_and_not_written(network, tmp_path):
    np.save(tmp_path / "crops.npy", random_crops(5))
    before = (tmp_path / "crops.npy").read_bytes()
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of arrays that it must not write to
        logits = predict_logits(network, mapped, CPU, "float32", tta=True)
    assert np.array_equal(logits, predict_logits(network, random_crops(5), CPU, "float32", tta=True))
    assert (tmp_path / "crops.npy").read_bytes() == before


def test_bfloat16_changes_logits_a_little(network):
    exact = predict_logits(network, random_crops(5), CPU, "float32")
    rounded = predict_logits(network, random_crops(5), CPU, "bfloat16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05


def calibrated(network, averaged, single=1.0):
    shape = SmallCNN(3, (4, 4, 4, 4), (4, 4), 0.0)
    return Model("cnn", network, shape, Calibration(averaged), Calibration(single), NO_REFERENCE)


def test_probabilities_are_of_logits_divided_by_the_temperature(network):
    crops = random_crops(5)
    probabilities = predict_probabilities(calibrated(network, 2.0), crops, CPU, "float32", tta=True)
    assert np.array_equal(probabilities, softmax(predict_logits(network, crops, CPU, "float32", tta=True) / 2))
    confident = predict_probabilities(calibrated(network, 0.5), crops, CPU, "float32", tta=True)
    assert (confident.max(axis=1) > probabilities.max(axis=1)).all()
    assert np.array_equal(confident.argmax(axis=1), probabilities.argmax(axis=1))


def test_logits_of_crops_as_they_are_have_a_temperature_of_their_own(network):
    crops = random_crops(5)
    model = calibrated(network, averaged=2.0, single=4.0)
    for tta, temperature in ((True, 2.0), (False, 4.0)):
        expected = softmax(predict_logits(network, crops, CPU, "float32", tta), temperature)
        assert np.array_equal(predict_probabilities(model, crops, CPU, "float32", tta), expected)


def test_models_are_averaged_by_their_calibrated_probabilities(network, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    crops, threads = random_crops(5), torch.get_num_threads()
    models = [calibrated(network, 2.0), calibrated(lopsided_network(seed=1), 0.5)]
    models[1].network(normalise(torch.from_numpy(random_crops(64))))
    parts = [predict_probabilities(model, crops, CPU, "float32", tta=True) for model in models]
    mean = predict_mean(models, crops, Compute("cpu", threads), "float32", tta=True)
    np.testing.assert_allclose(mean, (parts[0] + parts[1]) / 2)
    assert np.abs(parts[0] - parts[1]).max() > 0.01


def test_neighbours_count_as_much_as_on_average_over_the_models_and_not_where_one_of_them_does_not_know():
    def model(*weights):
        neighbourhood = Neighbourhood(weights, (), ()) if weights else None
        calibrations = Calibration(neighbourhood=neighbourhood), Calibration()
        return Model("cnn", nn.Identity(), SmallCNN(3, (4, 4, 4, 4), (4, 4), 0.0), *calibrations, NO_REFERENCE)

    known = [model(1.0, 0.5, 1.5), model(0.5, 1.5, 0.5)]
    assert neighbour_weights(known, tta=True) == [0.75, 1.0, 1.0]
    assert neighbour_weights([*known, model()], tta=True) is None
    assert neighbour_weights(known, tta=False) is None
