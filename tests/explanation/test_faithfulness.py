import numpy as np
import pandas as pd
import pytest
import torch

from nuclei.crops import LabelledCrops
from nuclei.explanation.attribution import attribute, methods
from nuclei.explanation.faithfulness import (
    Explained,
    average,
    cell_means,
    fill_curves,
    metrics,
    rank_correlation,
    score_maps,
    score_models,
    share_inside,
    shift,
)
from nuclei.explanation.segmentation import centre_disc
from nuclei.models.checkpoint import Model
from nuclei.models.networks import SmallCNN, build
from nuclei.models.predict import predict_probabilities
from nuclei.params import Explain, Train
from nuclei.training.loop import Recipe, fit

SHARES = np.linspace(0, 1, 9) ** 2
CPU = torch.device("cpu")


def crops_with_a_square(n):
    """Noisy grey crops with a bright square of 20x20 pixels, and the maps that show it."""
    rng = np.random.default_rng(0)
    crops = rng.integers(90, 110, (n, 100, 100, 3)).astype(np.uint8)
    maps = np.zeros((n, 100, 100), np.float32)
    for crop, values, (row, column) in zip(crops, maps, rng.integers(0, 8, (n, 2)) * 10, strict=True):
        crop[row : row + 20, column : column + 20] = 250
        values[row : row + 20, column : column + 20] = 1
    return crops, maps


def sees_squares(crops):
    """Probability of class 1: the share of the 400 bright pixels that is there."""
    bright = (crops > 200).all(axis=3).sum(axis=(1, 2)) / 400
    return np.stack([1 - bright, bright], axis=1)


def test_hiding_what_matters_first_ends_the_answer_at_once():
    crops, maps = crops_with_a_square(3)
    deletion, insertion = fill_curves(sees_squares, crops, np.ones(3, int), maps, SHARES)
    assert deletion.shape == insertion.shape == (3, 9)
    counts = np.round(SHARES * 100)
    np.testing.assert_allclose(deletion, np.tile(1 - np.minimum(counts, 4) / 4, (3, 1)))
    np.testing.assert_allclose(insertion, 1 - deletion)
    against, toward = fill_curves(sees_squares, crops, np.ones(3, int), -maps, SHARES)
    np.testing.assert_allclose(against, np.tile(np.minimum(100 - counts, 4) / 4, (3, 1)))
    np.testing.assert_allclose(toward, 1 - against)


def test_the_probability_of_the_explained_class_is_followed():
    crops, maps = crops_with_a_square(2)
    ones, _ = fill_curves(sees_squares, crops, np.array([1, 0]), maps, SHARES)
    assert ones[:, 0].tolist() == [1, 0] and ones[:, -1].tolist() == [0, 1]


def test_what_is_hidden_has_the_mean_colour_of_its_crop():
    crops, maps = crops_with_a_square(1)
    seen = []
    fill_curves(lambda images: seen.append(images) or sees_squares(images), crops, np.array([1]), maps, SHARES)
    images = seen[0]
    assert len(images) == 9 + 7  # the ends of both curves are the same two crops
    assert np.array_equal(images[0], crops[0])
    colour = crops[0].mean(axis=(0, 1)).round()
    assert (images[8] == colour).all()
    changed = (images[2] != crops[0]).any(axis=2)
    assert changed.sum() == round(SHARES[2] * 100) * 100 and (images[2][changed] == colour).all()


def test_many_crops_go_through_the_network_in_parts_and_come_back_in_order():
    crops, maps = crops_with_a_square(130)
    together, _ = fill_curves(sees_squares, crops, np.ones(130, int), maps, SHARES)
    alone, _ = fill_curves(sees_squares, crops[129:], np.ones(1, int), maps[129:], SHARES)
    assert together.shape == (130, 9) and np.array_equal(together[129:], alone)


def test_a_map_of_what_matters_scores_above_random_orders_and_its_opposite_below():
    crops, maps = crops_with_a_square(6)
    scores, curves = score_maps(sees_squares, crops, np.ones(6, int), {"true": maps, "false": -maps}, 8, seed=0)
    means = scores.groupby("Method").mean()
    assert (scores.loc["true", ["Deletion_gain", "Insertion_gain"]] > 0.2).all(axis=None)
    assert (scores.loc["false", ["Deletion_gain", "Insertion_gain"]] < -0.2).all(axis=None)
    assert means.loc["random_order", "Deletion"] == pytest.approx(0.5, abs=0.1)  # half of the square after half of all
    assert (scores.loc["random_order", ["Deletion_gain", "Insertion_gain"]] == 0).all(axis=None)
    assert means.loc["random_order", "In_disc"] == pytest.approx(centre_disc((100, 100)).mean())
    assert curves.groupby(["Method", "Curve"]).size().eq(9).all()
    true = curves[(curves["Method"] == "true") & (curves["Curve"] == "deletion")]
    assert np.trapezoid(true["Probability"], true["Share"]) == pytest.approx(means.loc["true", "Deletion"])


def test_another_seed_draws_other_random_orders_and_the_same_seed_the_same():
    crops, maps = crops_with_a_square(2)
    areas = [
        score_maps(sees_squares, crops, np.ones(2, int), {"true": maps}, 4, seed)[0].loc["random_order", "Deletion"]
        for seed in (0, 0, 1)
    ]
    assert areas[0].tolist() == areas[1].tolist() != areas[2].tolist()


def test_the_share_inside_counts_both_signs():
    masks = np.zeros((2, 100, 100), bool)
    masks[:, :50] = True
    maps = np.zeros((2, 100, 100))
    maps[0, 10, 10], maps[0, 90, 90] = -3, 1
    assert share_inside(maps, masks).tolist() == pytest.approx([0.75, 0.5])  # a map of zeros is even


def test_rank_correlation_is_that_of_the_squares():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 4, 100, 100)).astype(np.float32)
    squares = [pd.DataFrame(cell_means(maps).T) for maps in (one, other)]
    expected = squares[0].corrwith(squares[1], method="spearman")
    np.testing.assert_allclose(rank_correlation(one, other), expected, atol=1e-6)
    np.testing.assert_allclose(rank_correlation(one, np.exp(3 * one)), 1, atol=0.1)
    np.testing.assert_allclose(rank_correlation(one, -one), -1)
    assert rank_correlation(one, np.ones_like(one)).tolist() == [0] * 4
    assert rank_correlation(one[:0], one[:0]).tolist() == []


def test_moving_a_crop_and_its_map_back_gives_the_map():
    images = np.random.default_rng(0).random((2, 8, 10, 3))
    moved = shift(images, 1)
    assert np.array_equal(moved[:, 1:, 1:], images[:, :-1, :-1])
    assert np.array_equal(moved[:, 0, 1:], images[:, 0, :-1])  # the edge is repeated
    assert np.array_equal(shift(moved, -1)[:, :-1, :-1], images[:, :-1, :-1])


def two_models():
    crops, maps = crops_with_a_square(4)
    checked = np.array([1, 3])
    noise = np.random.default_rng(1).random((2, 100, 100))
    one = Explained(sees_squares, np.ones(4, int), {"a": maps}, {"a": shift(maps[checked], 1)}, {"a": noise})
    other = Explained(sees_squares, np.array([1, 0, 1, 1]), {"a": -maps}, {"a": noise}, {"a": maps[checked]})
    return score_models({"cnn": one, "resnet": other}, crops, checked, 4, seed=0)


def test_each_model_has_a_row_a_method_for_trained_and_for_random_weights():
    scores, curves = two_models()
    means = average(scores).set_index(["Model", "Weights", "Method"])
    assert means["Crops"].to_dict() == {
        (model, weights, method): crops
        for model in ("cnn", "resnet")
        for weights, method, crops in (("trained", "random_order", 4), ("trained", "a", 4), ("random", "a", 2))
    }
    assert set(curves["Model"]) == {"cnn", "resnet"}
    cnn = means.loc["cnn", "trained", "a"]
    assert cnn["Stability"] > 0.5 and cnn["Agreement"] < -0.9
    assert abs(means.loc["resnet", "trained", "a"]["Stability"]) < 0.4
    assert means.loc["resnet", "random", "a"]["Agreement"] < -0.9  # with the trained network's maps
    gains = scores.loc[scores["Model"].eq("cnn") & scores["Method"].eq("a"), ["Weights", "Deletion_gain"]]
    gains = gains.loc[gains["Weights"] == "trained", "Deletion_gain"]
    assert cnn["Deletion_error"] == pytest.approx(gains.std() / 4**0.5)
    random = scores[scores["Weights"] == "random"]
    assert random["Crop"].tolist() == [1, 3, 1, 3] and random["Stability"].isna().all()


def test_models_agree_only_on_crops_that_they_give_the_same_class():
    scores, _ = two_models()
    some = scores[(scores["Weights"] == "trained") & (scores["Method"] == "a")]
    assert some["Agreement"].isna().tolist() == 2 * [False, True, False, False]


def test_metrics_name_score_and_method_and_leave_out_what_is_not_known():
    scores, _ = two_models()
    found = metrics(average(scores), "cnn")
    assert list(found) == ["in_nucleus", "in_disc", "deletion_gain", "insertion_gain", "stability", "agreement"]
    assert all(list(values) == ["a"] for values in found.values())
    scores["Agreement"] = np.nan
    assert metrics(average(scores), "cnn")["agreement"] == {}


# A network that has learned something, against networks that have not.

SHAPE = SmallCNN(channels=3, filters=(8, 8, 8, 8), widths=(8, 8), dropout=0.0)
RULES = Train(
    weight_decay=0.0,
    warmup=0.1,
    label_smoothing=0.0,
    balance="none",
    dihedral=True,
    stain=0.0,
    precision="float32",
)
SETTINGS = Explain(
    seed=0,
    crops=1,
    errors=1,
    checks=1,
    occlusion=[{"window": 20, "stride": 20}],
    noise=0.05,
    noise_samples=1,
    steps=4,
    shap_samples=4,
    points=6,
)
SQUARES = np.array([[250, 100, 100], [100, 250, 100], [100, 100, 250], [20, 20, 20]])


def coloured_squares(n, seed):
    """Class k has a square of its colour on a grey ground, and every class white ones that mean nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    crops = rng.integers(100, 150, (n, 100, 100, 3))
    for crop, label in zip(crops, labels, strict=True):
        places = 20 * np.stack(np.unravel_index(rng.permutation(25)[:4], (5, 5)), axis=1)
        for (row, column), colour in zip(places, [SQUARES[label], 255, 255, 255], strict=True):
            crop[row : row + 20, column : column + 20] = colour
    return LabelledCrops(crops.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def trained():
    network = build(SHAPE, seed=0)
    *_, last = fit(network, coloured_squares(512, seed=0), None, Recipe(0.005, 16, 6, 0, 0.0, RULES), CPU)
    network.load_state_dict(last.weights)
    return Model(network.eval(), SHAPE)


def test_random_weights_score_at_chance_and_what_was_learned_above_it(trained):
    """Adebayo et al. 2018: a map that random weights give as well says nothing of what was learned."""
    data, seeds = coloured_squares(8, seed=1), range(8)
    ways = methods(SETTINGS, "float32", data.crops.mean(axis=(1, 2)))

    def predict(crops):
        return predict_probabilities(trained, crops, CPU, "float32")

    assert (predict(data.crops).argmax(axis=1) == data.labels).mean() > 0.8
    networks = {"trained": trained.network} | {f"seed {seed}": build(SHAPE, seed) for seed in range(1, 13)}
    maps = {
        f"{method}, {weights}": own
        for weights, network in networks.items()
        for method, own in attribute(network, data.crops, data.labels, seeds, ways, CPU).items()
    }
    scores, _ = score_maps(predict, data.crops, data.labels, maps, SETTINGS.points, seed=0)
    gains = (scores["Deletion_gain"] + scores["Insertion_gain"]).groupby("Method").mean()
    for method in ways:
        learned = gains[f"{method}, trained"]
        chance = np.mean([gains[f"{method}, seed {seed}"] for seed in range(1, 13)])  # of one seed it is up to 0.5
        assert learned > 0.4 and abs(chance) < 0.25, method
