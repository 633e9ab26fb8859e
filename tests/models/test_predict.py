import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nuclei.evaluation.evaluate import tabulate
from nuclei.models.checkpoint import Model
from nuclei.models.networks import SmallCNN
from nuclei.models.predict import BATCH_SIZE, predict_logits, predict_probabilities, softmax
from nuclei.models.transforms import normalise, turn

CPU = torch.device("cpu")


def lopsided_network():
    """Answers otherwise to a turned crop, and otherwise in training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
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
        predict_logits(network, turn(torch.from_numpy(crops), torch.full((5,), code)).numpy(), CPU, "float32")
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


def test_probabilities_are_of_logits_divided_by_the_temperature(network):
    crops = random_crops(5)
    shape = SmallCNN(3, (4, 4, 4, 4), (4, 4), 0.0)
    chances = predict_probabilities(Model(network, shape, temperature=2.0), crops, CPU, "float32", tta=True)
    assert np.array_equal(chances, softmax(predict_logits(network, crops, CPU, "float32", tta=True) / 2))
    surer = predict_probabilities(Model(network, shape, temperature=0.5), crops, CPU, "float32", tta=True)
    assert (surer.max(axis=1) > chances.max(axis=1)).all()
    assert np.array_equal(surer.argmax(axis=1), chances.argmax(axis=1))


def test_a_table_of_predictions_has_a_column_a_class_and_the_rows_of_its_index():
    index = pd.DataFrame({"Filename": ["7.png", "8.png"], "Label": [1, 0], "Fold": [0, 0]}, index=[6, 7])
    table = tabulate(index, np.array([[0.25, 0.75], [0.4, 0.6]]))
    assert table.index.tolist() == [6, 7]
    assert table.to_dict("list") == {
        "Filename": ["7.png", "8.png"],
        "Label": [1, 0],
        "Predicted": [1, 1],
        "Probability_0": [0.25, 0.4],
        "Probability_1": [0.75, 0.6],
    }
