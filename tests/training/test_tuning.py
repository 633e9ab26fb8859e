from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import coloured

from nuclei.crops import FoldedCrops, LabelledCrops, Places
from nuclei.models.networks import architecture_class, build
from nuclei.params import Params, Range, load_params
from nuclei.progress import Progress
from nuclei.task import COLON, NETWORKS
from nuclei.training.loop import TrainConfig, fit
from nuclei.training.tuning import (
    SCORES,
    SearchData,
    SuccessiveHalving,
    TrialResults,
    draw_trials,
    inner_split,
    rung_steps,
    search,
    winner,
)


def with_params(**sections) -> Params:
    """The project's parameters, small and quick, with others: with_params(tune={"trials": 1})."""
    values = load_params(Path("params.yaml")).model_dump()
    small = {
        "device": "cpu",
        "cnn": {"filters": [4, 4, 8, 8]},
        "train": {"precision": "float32"},
        "train_cnn": {"epochs": 2},
        "train_resnet": {"epochs": 1},
        "tune": {"trials": 2, "rungs": [0.5, 1.0], "reduction": 2, "batch_size": [8, 16], "widths": [8, 16]},
    }
    for changes in (small, sections):
        for name, value in changes.items():
            values[name] = values[name] | value if isinstance(value, dict) else value
    return Params.model_validate(values)


PARAMS = with_params()


def test_the_seed_alone_draws_the_trials():
    many = {"trials": 20}
    first = draw_trials("cnn", with_params(tune=many))
    assert first == draw_trials("cnn", with_params(tune=many))
    assert first != draw_trials("cnn", with_params(tune=many | {"seed": 1}))


def test_networks_draw_different_trials_even_if_their_names_are_of_one_length(monkeypatch):
    monkeypatch.setitem(NETWORKS, "cn2", NETWORKS["cnn"])
    trials = {name: draw_trials(name, with_params(tune={"trials": 20})) for name in ("cnn", "cn2", "resnet")}
    rates = [{trial["lr"] for trial in drawn} for drawn in trials.values()]
    assert all(len(rates[first] & rates[second]) < 5 for first, second in ((0, 1), (0, 2), (1, 2)))  # but by chance
    sizes = [[trial["batch_size"] for trial in drawn] for drawn in trials.values()]
    assert sizes[0] != sizes[1]


def test_trials_stay_in_their_ranges_and_cover_them():
    params = with_params(tune={"trials": 40, "lr": Range(low=1e-4, high=1e-1).model_dump()})
    trials = draw_trials("cnn", params)
    assert [trial["trial"] for trial in trials] == list(range(40))
    rates = np.array([trial["lr"] for trial in trials])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1
    quarters = np.histogram(np.log10(rates), bins=4, range=(-4, -1))[0]
    assert all(9 <= count <= 11 for count in quarters)  # ten a quarter, but for rounding at their edges
    assert list(rates) != sorted(rates)
    for name, values in (("batch_size", {8, 16}), ("width_1", {8, 16}), ("width_2", {8, 16})):
        assert {trial[name] for trial in trials} == values


def test_widths_are_drawn_only_for_a_network_that_has_them():
    assert set(draw_trials("resnet", PARAMS)[0]) == {"model", "trial", "lr", "batch_size"}
    assert set(draw_trials("cnn", PARAMS)[0]) == {"model", "trial", "lr", "batch_size", "width_1", "width_2"}


def test_a_rung_has_so_many_steps_whatever_batch_sizes_there_are_to_choose_from():
    """Shares of the training that follows, in steps of the largest batches; the CNN trains for two epochs."""
    for sizes in ([16], [8, 16], [16, 4, 2]):
        params = with_params(tune={"batch_size": sizes, "rungs": [0.25, 0.5, 1.0]})
        assert rung_steps("cnn", 64, params) == [2, 4, 8]
        assert rung_steps("resnet", 64, params) == [1, 2, 4]
    assert rung_steps("cnn", 10, PARAMS) == [1, 2]  # fewer crops than a batch has


@pytest.mark.parametrize("held_out", [[0], [0, 1, 2, 3, 4]])
def test_the_search_never_sees_fold_0_and_compares_on_fold_1(held_out):
    folds = np.arange(50) % 5
    crops = folds.astype(np.uint8)[:, None, None, None].repeat(3, axis=3)  # a pixel that tells the fold
    labels = np.arange(50) // 5 % 4
    train, inner = inner_split(
        FoldedCrops(LabelledCrops(crops, labels), folds, np.arange(50), held_out, Places(*np.zeros((3, 50))))
    )
    assert set(train.crops.flat) == {2, 3, 4} and len(train) == 30
    assert set(inner.crops.flat) == {1} and len(inner) == 10
    assert inner.labels.tolist() == labels[folds == 1].tolist()


@pytest.fixture(scope="module")
def data():
    weights = dict(build(architecture_class("resnet")(3), seed=9).state_dict())
    return SearchData(PARAMS, weights, coloured(32, 0), coloured(16, 1))


@pytest.fixture(scope="module")
def resume_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def tables(local_ray, one_thread, data, resume_dir):
    """The one search of this module."""
    return search(list(NETWORKS), data, resume_dir)


@pytest.mark.parametrize(("name", "steps"), [("cnn", [4, 2, 2]), ("resnet", [2, 1, 1])])
def test_the_winner_stands_first_and_went_through_every_rung(name, steps, tables):
    table = tables[name]
    assert table["rung"].tolist() == [1, 0, 0]
    assert table["steps"].tolist() == steps
    assert table["crops"].tolist() == (table["steps"] * table["batch_size"]).tolist()
    assert set(table["model"]) == {name}
    short = table[table["rung"] == 0]
    assert sorted(short["trial"]) == [0, 1]
    best, first = short.loc[short["heldout_loss"].idxmin()], table.iloc[0]
    assert (first["trial"], first["lr"], first["batch_size"]) == (best["trial"], best["lr"], best["batch_size"])
    assert table[list(SCORES)].notna().all(axis=None)


@pytest.mark.parametrize("name", NETWORKS)
def test_trials_train_as_they_were_drawn(name, tables):
    drawn = draw_trials(name, PARAMS)
    short = tables[name][tables[name]["rung"] == 0].sort_values("trial")
    assert short[list(drawn[0])].to_dict("records") == drawn


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trial_scores_what_the_same_training_scores_without_ray(name, tables, data, one_thread):
    best = tables[name].iloc[0]
    architecture = architecture_class(name).from_params(PARAMS, COLON, best)
    network = build(architecture, PARAMS.tune.seed)
    if name == "resnet":
        architecture.load_pretrained(network, data.pretrained)
    steps = rung_steps(name, 32, PARAMS)[-1]
    config = TrainConfig(best["lr"], int(best["batch_size"]), steps, PARAMS.tune.seed, ema=0.0, train=PARAMS.train)
    *_, last = fit(network, data.train_set, data.inner_set, config, one_thread)
    assert best["heldout_loss"] == pytest.approx(last.scores["heldout_loss"], rel=1e-6)
    assert best["heldout_accuracy"] == last.scores["heldout_accuracy"]


def test_what_the_search_chose_is_the_winner_with_what_its_network_searches(tables):
    best = tables["cnn"].iloc[0]
    assert winner(tables["cnn"], PARAMS) == {
        "lr": best["lr"], "batch_size": best["batch_size"], "width_1": best["width_1"], "width_2": best["width_2"],
    }  # fmt: skip
    assert list(winner(tables["resnet"], PARAMS)) == ["lr", "batch_size"]
    assert all(type(value) in (int, float) for table in tables.values() for value in winner(table, PARAMS).values())


def test_the_same_search_after_an_interruption_runs_no_trial_again(tables, data, resume_dir, monkeypatch):
    monkeypatch.setattr("nuclei.training.tuning._run_trials", lambda *_: pytest.fail("trials were run"))
    again = search(list(NETWORKS), data, resume_dir)
    assert all(again[name].equals(tables[name]) for name in NETWORKS)


@pytest.mark.parametrize(
    "changes",
    [
        {"cnn": {"dropout": 0.5}},
        {"resnet": {"stem": "small"}},
        {"train": {"stain": 0.1}},
        {"train_cnn": {"epochs": 3}},
        {"tune": {"cpus_per_trial": 2}},
        {"tune": {"seed": 1}},
    ],
    ids=str,
)
def test_another_search_runs_all_its_trials(changes, tables, data, resume_dir, monkeypatch):
    def start(halving, *_):
        assert len(halving.pending) == 4 and halving.steps_done == 0
        raise StopIteration

    monkeypatch.setattr("nuclei.training.tuning._run_trials", start)
    monkeypatch.setattr("nuclei.training.tuning.worker_slots", lambda *_: 1)
    other = SearchData(with_params(**changes), data.pretrained, data.train_set, data.inner_set)
    with pytest.raises(StopIteration):
        search(list(NETWORKS), other, resume_dir)


def halve(order, results: TrialResults, losses) -> SuccessiveHalving:
    """Run a search in which each rung's trials end in some order, without any training."""
    trials = [
        {"model": model, "trial": number, "lr": 0.1, "batch_size": 8} for model in "ab" for number in range(len(losses))
    ]
    with Progress(100, "tune", "step") as progress:
        halving = SuccessiveHalving(trials, {"a": [1, 2], "b": [3, 4]}, 2, results, progress)
        while True:
            running = {}
            while isinstance(suggestion := halving.suggest(str(len(running))), dict):
                running[str(len(running))] = suggestion["trial"]
            if suggestion == SuccessiveHalving.FINISHED:
                return halving
            for index in sorted(running, key=lambda index: order[int(index) % len(order)]):
                loss = losses[running[index]["trial"]]
                halving.on_trial_complete(index, dict.fromkeys(SCORES, loss))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_in_which_trials_end_changes_nothing(order, tmp_path):
    """Of equals the first goes on."""
    halving = halve(order, TrialResults(tmp_path / "trials", "key"), losses=[0.5, 0.2, 0.2, 0.9])
    finished = [(trial["model"], trial["rung"], trial["trial"], trial["steps"]) for trial in halving.finished]
    assert [row for row in finished if row[0] == "a"] == [
        ("a", 1, 1, 2), ("a", 1, 2, 2), ("a", 0, 1, 1), ("a", 0, 2, 1), ("a", 0, 0, 1), ("a", 0, 3, 1),
    ]  # fmt: skip
    assert [row[1:3] for row in finished if row[0] == "b"] == [row[1:3] for row in finished if row[0] == "a"]
    assert halving.steps_done == 4 * 1 + 2 * 2 + 4 * 3 + 2 * 4


def test_a_search_goes_on_in_the_middle_of_a_rung(tmp_path, capsys):
    path, losses = tmp_path / "trials", [0.5, 0.2, 0.3, 0.9]
    whole = halve((0,), TrialResults(path, "key"), losses)
    assert TrialResults(path, "another key").scores == {}
    half = TrialResults(path, "key")
    for trial in list(half.scores)[5:]:
        del half.scores[trial]
    again = halve((0,), half, losses)
    assert again.finished == whole.finished and again.steps_done == whole.steps_done
    assert "trials that an interrupted run had done: 12" in capsys.readouterr().out


def test_no_trial_starts_after_one_has_failed(tmp_path):
    trials = draw_trials("cnn", with_params(tune={"trials": 4}))
    with Progress(100, "tune", "step") as progress:
        halving = SuccessiveHalving(trials, {"cnn": [1, 1]}, 2, TrialResults(tmp_path / "trials", "key"), progress)
        halving.suggest("0")
        halving.suggest("1")
        halving.on_trial_complete("0", error=True)
        assert halving.suggest("2") is None
        halving.on_trial_complete("1", dict.fromkeys(SCORES, 0.1))
        assert halving.suggest("2") == SuccessiveHalving.FINISHED


def test_the_weights_of_the_search_are_not_changed_by_it(tables, data):
    fresh = build(architecture_class("resnet")(3), seed=9).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in data.pretrained.items())
