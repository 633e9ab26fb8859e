from pathlib import Path

import numpy as np
import pytest
import torch

from nuclei.crops import LabelledCrops
from nuclei.device import Compute
from nuclei.errors import InputError
from nuclei.models.networks import ResNet18, SmallCNN, build
from nuclei.models.predict import fit_temperature, predict_logits
from nuclei.params import load_params
from nuclei.training.loop import fit, keep_best
from nuclei.training.train import plan, train

CPU = torch.device("cpu")
PLACE = Compute("cpu", torch.get_num_threads())
TUNED = {"lr": 0.01, "batch_size": 16, "widths": [8, 12]}
PARAMS = load_params(Path("params.yaml"))
PARAMS = PARAMS.model_copy(
    update={
        "cnn": PARAMS.cnn.model_copy(update={"filters": [4, 4, 8, 8]}),
        "train": PARAMS.train.model_copy(update={"precision": "float32"}),
        "train_cnn": PARAMS.train_cnn.model_copy(update={"epochs": 3, "seed": 3, "ema": 0.5, "patience": 2}),
    }
)


def labelled(n, seed):
    """Crops whose colour tells the class, through noise; a tenth of the labels are wrong."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    noise = rng.normal(0, 60, (n, 100, 100, 3))
    crops = (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)
    return LabelledCrops(crops, np.where(rng.random(n) < 0.1, (labels + 1) % 4, labels))


def test_what_was_tuned_counts_unless_the_parameters_override_it():
    recipe = plan("cnn", PARAMS, TUNED, {}).recipe
    assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.seed, recipe.ema) == (0.01, 16, 3, 3, 0.5)
    over = PARAMS.model_copy(update={"lr": 0.1, "batch_size": 8, "epochs": 2})
    recipe = plan("cnn", over, TUNED, {}).recipe
    assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.seed) == (0.1, 8, 2, 3)


def test_each_network_has_its_own_shape_and_start():
    pretrained = {"conv1.weight": torch.zeros(1)}
    cnn, resnet = (plan(name, PARAMS, TUNED, pretrained) for name in ("cnn", "resnet"))
    assert cnn.architecture == SmallCNN(3, (4, 4, 8, 8), (8, 12), PARAMS.cnn.dropout)
    assert resnet.architecture == ResNet18(3, "pretrained")
    assert (cnn.weights, resnet.weights) == ({}, pretrained)
    assert (cnn.patience, resnet.patience) == (2, PARAMS.train_resnet.patience)


def test_a_trained_model_is_the_best_epoch_with_a_temperature_of_the_validation_crops():
    how, fitting, validation = plan("cnn", PARAMS, TUNED, {}), labelled(32, 0), labelled(16, 1)
    model, curves, best = train(how, fitting, validation, PLACE)
    network = build(how.architecture, seed=3)
    expected, kept = keep_best(fit(network, fitting, validation, how.recipe, CPU), how.patience)
    assert curves.to_dict("records") == expected and best.number == kept.number
    assert all(torch.equal(value, kept.weights[name]) for name, value in model.network.state_dict().items())
    logits = predict_logits(model.network, validation.crops, CPU, "float32", tta=True)
    assert model.temperature == fit_temperature(logits, validation.labels) != 1


def test_a_resnet_starts_from_its_pretrained_weights():
    how = plan("resnet", PARAMS, TUNED, {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(InputError, match=r"bn1\.weight is missing"):
        train(how, labelled(16, 0), labelled(8, 1), PLACE)
