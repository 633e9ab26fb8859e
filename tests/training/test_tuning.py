from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from nuclei.crops import LabelledCrops
from nuclei.device import setup_device
from nuclei.models.networks import ResNet18, SmallCNN, build, load_pretrained
from nuclei.params import Range, load_params
from nuclei.training.loop import Recipe, fit
from nuclei.training.tuning import draw_trials, search

PARAMS = load_params(Path("params.yaml"))
SETTINGS = PARAMS.tune.model_copy(
    update={
        "trials": 2,
        "epochs": [1, 2],
        "reduction": 2,
        "batch_size": [8, 16],
        "widths": [8, 16],
        "cpus_per_trial": 1,
        "gpus_per_trial": 0,
    }
)
RECIPE = PARAMS.train.model_copy(update={"precision": "float32"})
SHAPES = {"cnn": SmallCNN(3, (4, 4, 8, 8), (8, 8), 0.1), "resnet": ResNet18(3, "pretrained")}


def test_the_seed_alone_draws_the_trials():
    settings = SETTINGS.model_copy(update={"trials": 20})
    first = draw_trials("cnn", settings, tune_widths=True)
    assert first == draw_trials("cnn", settings, tune_widths=True)
    assert first != draw_trials("cnn", settings.model_copy(update={"seed": 1}), tune_widths=True)
    assert [trial["lr"] for trial in first] != [trial["lr"] for trial in draw_trials("resnet", settings, False)]


def test_trials_stay_in_their_ranges_and_cover_them():
    settings = SETTINGS.model_copy(update={"trials": 40, "lr": Range(low=1e-4, high=1e-1)})
    trials = draw_trials("cnn", settings, tune_widths=True)
    assert [trial["trial"] for trial in trials] == list(range(40))
    rates = np.array([trial["lr"] for trial in trials])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1
    quarters = np.histogram(np.log10(rates), bins=4, range=(-4, -1))[0]
    assert all(9 <= count <= 11 for count in quarters)  # ten a quarter, but for rounding at their edges
    assert list(rates) != sorted(rates)
    for name, values in (("batch_size", {8, 16}), ("width_1", {8, 16}), ("width_2", {8, 16})):
        assert {trial[name] for trial in trials} == values


def test_widths_are_drawn_only_for_a_network_that_has_them():
    assert set(draw_trials("resnet", SETTINGS, tune_widths=False)[0]) == {"model", "trial", "lr", "batch_size"}


def coloured(n, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    noise = rng.normal(0, 40, (n, 100, 100, 3))
    return LabelledCrops((colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def one_thread():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield setup_device("cpu", SETTINGS.cpus_per_trial)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def weights():
    return dict(build(SHAPES["resnet"], seed=9).state_dict())


@pytest.fixture(scope="module")
def tables(weights, tmp_path_factory):
    """The one search of this module, on a Ray of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        return search(
            SHAPES, weights, coloured(32, 0), coloured(16, 1), RECIPE, SETTINGS, "cpu", tmp_path_factory.mktemp("kept")
        )


@pytest.mark.parametrize("name", SHAPES)
def test_the_winner_stands_first_and_went_through_every_rung(name, tables):
    table = tables[name]
    assert table["rung"].tolist() == [1, 0, 0]
    assert table["epochs"].tolist() == [2, 1, 1]
    assert set(table["model"]) == {name}
    short = table[table["rung"] == 0]
    assert sorted(short["trial"]) == [0, 1]
    best = short.loc[short["validation_loss"].idxmin()]
    winner = table.iloc[0]
    assert (winner["trial"], winner["lr"], winner["batch_size"]) == (best["trial"], best["lr"], best["batch_size"])
    assert table[["validation_loss", "validation_accuracy", "validation_balanced_accuracy"]].notna().all(axis=None)


@pytest.mark.parametrize("name", SHAPES)
def test_trials_train_as_they_were_drawn(name, tables):
    drawn = draw_trials(name, SETTINGS, tune_widths=name == "cnn")
    short = tables[name][tables[name]["rung"] == 0].sort_values("trial")
    assert short[list(drawn[0])].to_dict("records") == drawn


@pytest.mark.parametrize("name", SHAPES)
def test_a_trial_scores_what_the_same_training_scores_without_ray(name, tables, weights, one_thread):
    winner = tables[name].iloc[0]
    shape = SHAPES[name]
    if name == "cnn":
        shape = SmallCNN(3, shape.filters, (int(winner["width_1"]), int(winner["width_2"])), shape.dropout)
    network = build(shape, SETTINGS.seed)
    if name == "resnet":
        load_pretrained(network, weights)
    recipe = Recipe(winner["lr"], int(winner["batch_size"]), 2, SETTINGS.seed, ema=0.0, train=RECIPE)
    *_, last = fit(network, coloured(32, 0), coloured(16, 1), recipe, one_thread)
    assert winner["validation_loss"] == pytest.approx(last.scores["validation_loss"], rel=1e-6)
    assert winner["validation_accuracy"] == last.scores["validation_accuracy"]


def test_no_ray_is_left_running(tables):
    assert tables and not ray.is_initialized()
