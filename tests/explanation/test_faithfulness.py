import numpy as np
import pandas as pd
import pytest
import torch
from references import NO_REFERENCE

from nuclei.crops import LabelledCrops
from nuclei.explanation.attribution import attribute, methods
from nuclei.explanation.deletion_insertion import NULLS, deletion_insertion, null_orders, patch_means
from nuclei.explanation.explainable import BASELINES, explainable, predict_single_view
from nuclei.explanation.faithfulness import (
    Attributions,
    finding,
    metrics,
    rank_correlation,
    score_models,
    share_inside,
    shift,
    standard_error,
    summarise,
)
from nuclei.explanation.segmentation import centre_disc
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import Explain, Train
from nuclei.training.loop import TrainConfig, fit, training_steps

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


def baselines_of(crops):
    return {name: baseline(crops) for name, baseline in BASELINES.items()}


def curves_of(crops, targets, maps, points=8):
    """By Curve, hidden under the mean colour: (N, P)."""
    hidden = {"mean_colour": baselines_of(crops)["mean_colour"]}
    table = deletion_insertion(sees_squares, crops, hidden, targets, {"": [maps]}, points, patch=10)
    return {curve: rows.pivot(index="Crop", columns="Share")["Probability"] for curve, rows in table.groupby("Curve")}


def test_hiding_what_matters_first_ends_the_answer_at_once():
    crops, maps = crops_with_a_square(3)
    curves = curves_of(crops, np.ones(3, int), maps)
    shares = curves["deletion"].columns.to_numpy()
    np.testing.assert_allclose(shares, np.linspace(0, 1, 9) ** 2)
    counts = np.round(shares * 100)
    np.testing.assert_allclose(curves["deletion"], np.tile(1 - np.minimum(counts, 4) / 4, (3, 1)))
    np.testing.assert_allclose(curves["insertion"], 1 - curves["deletion"])
    against = curves_of(crops, np.ones(3, int), -maps)
    np.testing.assert_allclose(against["deletion"], np.tile(np.minimum(100 - counts, 4) / 4, (3, 1)))
    np.testing.assert_allclose(against["insertion"], 1 - against["deletion"])


def test_the_probability_of_the_explained_class_is_followed():
    crops, maps = crops_with_a_square(2)
    deletion = curves_of(crops, np.array([1, 0]), maps)["deletion"].to_numpy()
    assert deletion[:, 0].tolist() == [1, 0] and deletion[:, -1].tolist() == [0, 1]


def test_what_is_hidden_has_the_baseline_in_its_place():
    crops, maps = crops_with_a_square(1)
    seen, baselines = [], baselines_of(crops)
    orders = {"": [maps]}

    def predict(images):
        seen.extend(images)
        return sees_squares(images)

    deletion_insertion(predict, crops, baselines, np.array([1]), orders, 2, patch=10)
    assert len(seen) == 1 + 2 * (1 + 2)  # the crop; of each baseline itself, a quarter hidden, a quarter shown
    first = patch_means(maps, 10)[0].reshape(10, 10).repeat(10, 0).repeat(10, 1) == 1
    for hidden, (even, deleted, inserted) in zip(baselines.values(), (seen[1:4], seen[4:]), strict=True):
        assert np.array_equal(even, hidden[0])
        assert np.array_equal(deleted[first], hidden[0][first]) and np.array_equal(inserted[first], crops[0][first])
        assert (deleted == crops[0]).all(axis=2).sum() >= 7500 and (inserted == hidden[0]).all(axis=2).sum() >= 7500


def test_a_crop_has_its_curves_in_any_company_and_size():
    crops, maps = crops_with_a_square(70)
    together = curves_of(crops, np.ones(70, int), maps)["deletion"].to_numpy()
    alone = curves_of(crops[69:], np.ones(1, int), maps[69:])["deletion"].to_numpy()
    assert np.array_equal(together[69:], alone)
    small = curves_of(crops[:2, :64, :75], np.ones(2, int), maps[:2, :64, :75])["insertion"].to_numpy()
    assert small.shape == (2, 9)


@pytest.mark.parametrize(("size", "patch"), [((100, 100), 10), ((64, 75), 10), ((20, 31), 7), ((5, 5), 5)])
def test_patches_cover_every_pixel_once_and_are_about_as_large_as_asked_for(size, patch):
    maps = np.random.default_rng(0).random((2, *size))
    means = patch_means(maps, patch)
    assert means.shape[1] == round(size[0] / patch) * round(size[1] / patch)
    assert patch_means(np.ones((1, *size)), patch) == pytest.approx(1)
    if size[0] % patch == size[1] % patch == 0:
        blocks = maps.reshape(2, size[0] // patch, patch, size[1] // patch, patch).mean(axis=(2, 4))
        np.testing.assert_allclose(means, blocks.reshape(2, -1))


def test_null_orders_ask_no_network_and_depend_on_each_crops_seed_alone():
    crops = np.zeros((3, 60, 80, 3), np.uint8)
    orders = null_orders(crops, [4, 5, 6])
    assert tuple(orders) == NULLS
    (centre,) = orders["centre_first"]
    assert np.unravel_index(centre[0].argmax(), (60, 80)) in [(29, 39), (29, 40), (30, 39), (30, 40)]
    assert centre[0].argmin() in (0, 79, 59 * 80, 60 * 80 - 1)
    fields = np.stack(orders["smooth_random"])
    assert len({field.tobytes() for field in fields.reshape(-1, 60, 80)}) == fields[:, :, 0, 0].size
    assert np.array_equal(np.stack(null_orders(crops[:1], [6])["smooth_random"])[:, 0], fields[:, 2])
    neighbours = np.corrcoef(fields[..., :-1].ravel(), fields[..., 1:].ravel())[0, 1]
    assert neighbours > 0.9  # smooth


def test_the_share_inside_counts_both_signs():
    masks = np.zeros((2, 100, 100), bool)
    masks[:, :50] = True
    maps = np.zeros((2, 100, 100))
    maps[0, 10, 10], maps[0, 90, 90] = -3, 1
    assert share_inside(maps, masks).tolist() == pytest.approx([0.75, 0.5])  # a map of zeros is even


def test_rank_correlation_is_that_of_the_patches():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 4, 100, 100)).astype(np.float32)
    patches = [pd.DataFrame(patch_means(maps, 10).T) for maps in (one, other)]
    expected = patches[0].corrwith(patches[1], method="spearman")
    np.testing.assert_allclose(rank_correlation(one, other, 10), expected, atol=1e-6)
    np.testing.assert_allclose(rank_correlation(one, np.exp(3 * one), 10), 1, atol=0.1)
    np.testing.assert_allclose(rank_correlation(one, -one, 10), -1)
    assert rank_correlation(one, np.ones_like(one), 10).tolist() == [0] * 4
    assert rank_correlation(one[:0], one[:0], 10).tolist() == []


def test_moving_a_crop_and_its_map_back_gives_the_map():
    images = np.random.default_rng(0).random((2, 8, 10, 3))
    moved = shift(images, 1)
    assert np.array_equal(moved[:, 1:, 1:], images[:, :-1, :-1])
    assert np.array_equal(moved[:, 0, 1:], images[:, 0, :-1])  # the edge is repeated
    assert np.array_equal(shift(moved, -1)[:, :-1, :-1], images[:, :-1, :-1])


GROUPS = np.array([0, 0, 1, 1, 2, 3])


def attributions(maps, targets, randomized, shifted):
    """Of six crops, of which two are checked."""
    crops, _ = crops_with_a_square(6)
    baselines = baselines_of(crops)
    scored = null_orders(crops, range(6)) | {"a": [maps]}
    checked = {name: images[:2] for name, images in baselines.items()}
    curves = [deletion_insertion(sees_squares, crops, baselines, targets, scored, 4, 10).assign(Network=0)]
    curves += [
        deletion_insertion(sees_squares, crops[:2], checked, targets[:2], {"a": [values]}, 4, 10).assign(Network=number)
        for number, values in enumerate(randomized, start=1)
    ]
    return Attributions(
        probabilities=sees_squares(crops),
        targets=targets,
        baselines={name: sees_squares(images) for name, images in baselines.items()},
        maps={"a": maps},
        shifted={"a": shifted},
        randomized={"a": np.stack(randomized)},
        curves=pd.concat(curves, ignore_index=True),
        pixels_per_cell=8.0,
    )


@pytest.fixture(scope="module")
def two_models():
    _, maps = crops_with_a_square(6)
    noise = np.random.default_rng(1).random((2, 2, 100, 100))
    good = attributions(maps, np.ones(6, int), noise, shift(maps[:2], 1))
    bad = attributions(-maps, np.array([1, 1, 1, 0, 1, 1]), [maps[:2], -maps[:2]], noise[0])
    nuclei = np.repeat(centre_disc((100, 100))[None], 6, axis=0)
    both = {"cnn": good, "resnet": bad}
    scores, curves = score_models(both, nuclei, patch=10)
    return scores, curves, summarise(scores, both, GROUPS, ["dark", "bright"])


def test_gains_are_over_the_better_of_the_null_orders(two_models):
    scores, _, means = two_models
    cnn = means[(means["Model"] == "cnn") & (means["Weights"] == "trained")]
    for _, rows in cnn.groupby("Baseline"):
        nulls = rows[rows["Method"].isin(NULLS)]
        assert nulls["Deletion_gain"].max() == nulls["Insertion_gain"].max() == 0
        row = rows.set_index("Method").loc["a"]
        assert row["Deletion_gain"] == pytest.approx(nulls["Deletion"].min() - row["Deletion"])
        assert row["Insertion_gain"] == pytest.approx(row["Insertion"] - nulls["Insertion"].max())
        assert row["Deletion_gain"] > 0.2 and row["Insertion_gain"] > 0.2
    bad = scores[(scores["Model"] == "resnet") & (scores["Network"] == 0) & (scores["Method"] == "a")]
    assert bad.loc[bad["Crop"] != 3, "Deletion_gain"].mean() < 0


def test_each_model_has_a_row_per_baseline_and_method_for_trained_and_for_random_weights(two_models):
    _, curves, means = two_models
    table = means.set_index(["Model", "Weights", "Baseline", "Method"])
    assert len(table) == 2 * 2 * (3 + 1) and table.index.is_unique
    for model in ("cnn", "resnet"):
        for baseline in BASELINES:
            trained, random = (table.loc[model, weights, baseline, "a"] for weights in ("trained", "random"))
            assert trained[["Networks", "Crops", "Groups"]].tolist() == [1, 6, 4]
            assert random[["Networks", "Crops", "Groups"]].tolist() == [2, 2, 1]
            assert np.isnan(trained["Deletion_spread"]) and np.isnan(random["Stability"])
            assert trained["Rank"] == 1 and np.isnan(random["Rank"])
            assert (trained["Baseline_class"], trained["Baseline_share"]) == ("dark", 1)  # no bright pixel left
    assert table.loc["resnet", "random", "mean_colour", "a"]["Deletion_spread"] > 0.2  # a map and its opposite
    assert set(curves["Curve"]) == {
        f"{curve}, {name}" for curve in ("deletion", "insertion") for name in ("mean colour", "blurred")
    }
    assert curves.groupby(["Model", "Curve", "Method"]).size().eq(5).all()


def test_maps_that_move_with_the_crop_are_stable_and_opposite_ones_disagree(two_models):
    scores, _, means = two_models
    means = means.set_index(["Model", "Weights", "Baseline", "Method"])
    cnn, resnet = (means.loc[model, "trained", "blurred", "a"] for model in ("cnn", "resnet"))
    assert cnn["Stability"] > 0.5 and abs(resnet["Stability"]) < 0.4
    assert cnn["Agreement"] < -0.9
    rows = scores[(scores["Network"] == 0) & (scores["Method"] == "a") & (scores["Baseline"] == "blurred")]
    assert rows["Agreement"].isna().tolist() == 2 * [False, False, False, True, False, False]  # another class
    assert rows["Stability"].isna().tolist() == 2 * [False, False, True, True, True, True]
    random = scores[(scores["Model"] == "resnet") & (scores["Baseline"] == "blurred") & (scores["Network"] > 0)]
    assert random["Agreement"].round(6).tolist() == [-1, -1, 1, 1]  # with the trained network's maps


def test_metrics_name_score_baseline_and_method_and_leave_out_what_is_not_known(two_models):
    *_, means = two_models
    found = metrics(means, "cnn")
    assert {name for name, values in found.items() if list(values) == ["a"]} == {
        *("deletion_gain_mean_colour", "insertion_gain_mean_colour", "deletion_gain_blurred"),
        *("insertion_gain_blurred", "in_nucleus", "in_disc", "stability", "agreement"),
    }
    assert found["convergence_delta"] == {}
    assert found["baseline_share"] == {"mean_colour_dark": 1, "blurred_dark": 1}


def test_the_standard_error_counts_groups_not_crops():
    values = np.random.default_rng(0).normal(size=40)
    assert standard_error(values, np.arange(40)) == pytest.approx(values.std(ddof=1) / 40**0.5)
    twins = standard_error(values.repeat(2), np.arange(40).repeat(2))
    assert twins == pytest.approx(standard_error(values, np.arange(40)))  # a copy of each crop says nothing new
    assert np.isnan(standard_error(values, np.zeros(40)))


@pytest.mark.parametrize(
    ("gains", "error", "random", "groups", "expected"),
    [
        ((0.2, 0.2), 0.03, 0.0, 8, "consistent with what the network uses"),
        ((0.2, 0.2), 0.03, 0.15, 8, "cannot be told"),  # nor do random weights give less, by twice their spread
        ((0.2, 0.05), 0.03, 0.0, 8, "cannot be told"),
        ((0.2, 0.2), 0.03, 0.0, 2, "cannot be told"),
        ((0.2, 0.2), np.nan, 0.0, 1, "cannot be told"),
        ((0.2, -0.2), 0.03, 0.0, 8, "no better than a blind order"),
    ],
)
def test_a_finding_says_no_more_than_follows(gains, error, random, groups, expected):
    key = {"Model": "cnn", "Baseline": "blurred", "Method": "a", "Groups": groups}
    row = key | {"Weights": "trained", "Deletion_error": error, "Insertion_error": error}
    row |= {"Deletion_gain": gains[0], "Insertion_gain": gains[1]}
    chance = key | {"Weights": "random", "Deletion_gain": random, "Insertion_gain": random}
    chance |= {"Deletion_spread": 0.04, "Insertion_spread": 0.04}
    assert finding(pd.Series(row), pd.DataFrame([row, chance])) == expected
    assert finding(pd.Series(chance), pd.DataFrame([row, chance])) == ""


# A network that has learned something, against networks that have not.

SHAPE = SmallCNN(channels=3, filters=(8, 8, 8, 8), widths=(8, 8), dropout=0.0)
RULES = Train(
    threads=1,
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
    crops=8,
    stratify=True,
    gallery_crops=1,
    errors=1,
    sanity_crops=1,
    random_networks=2,
    methods=["occlusion", "integrated_gradients", "gradient_shap", "layer_cam"],
    occlusion=[{"window": 20, "stride": 20}],
    ig_steps=4,
    smoothgrad_samples=0,
    noise_std=0.05,
    shap_samples=4,
    curve_points=6,
    patch=10,
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
    config = TrainConfig(lr=0.005, batch_size=16, steps=training_steps(512, 16, 6), seed=0, ema=0.0, train=RULES)
    for _ in fit(network, coloured_squares(512, seed=0), None, config, CPU):
        pass
    return uncalibrated(network.eval())


def uncalibrated(network):
    return Model("cnn", network, SHAPE, averaged=Calibration(), single=Calibration(), reference=NO_REFERENCE)


def test_random_weights_score_at_chance_and_what_was_learned_above_it(trained):
    """Adebayo et al. 2018: a map that random weights give as well says nothing of what was learned."""
    data, seeds = coloured_squares(8, seed=1), range(8)
    ways = methods(SETTINGS, "float32", data.crops.mean(axis=(1, 2)))
    network = explainable(trained)

    def predict(crops):
        return predict_single_view(network, crops, CPU, "float32")

    assert (predict(data.crops).argmax(axis=1) == data.labels).mean() > 0.8
    networks = {"trained": trained} | {f"seed {seed}": uncalibrated(build(SHAPE, seed)) for seed in range(1, 13)}
    maps = {
        f"{method}, {weights}": [own]
        for weights, network in networks.items()
        for method, own in attribute(network, data.crops, data.labels, seeds, ways, CPU).items()
    } | {"blind": null_orders(data.crops, seeds)["smooth_random"]}
    hidden = {"mean_colour": baselines_of(data.crops)["mean_colour"]}
    curves = deletion_insertion(predict, data.crops, hidden, data.labels, maps, SETTINGS.curve_points, SETTINGS.patch)
    areas = curves.groupby(["Method", "Curve"])[["Share", "Probability"]].apply(
        lambda rows: np.trapezoid(*rows.groupby("Share")["Probability"].mean().reset_index().to_numpy().T[::-1])
    )
    gains = areas.unstack().pipe(lambda table: table["insertion"] - table["deletion"])
    gains -= gains["blind"]
    for method in ways:
        learned = gains[f"{method}, trained"]
        chance = np.mean([gains[f"{method}, seed {seed}"] for seed in range(1, 13)])  # of one seed it is up to 0.5
        # LayerCAM does not pass entirely: random filters answer to strong squares, too, and activations weigh in it.
        assert learned > chance + 0.3 and abs(chance) < (0.35 if method == "layer_cam" else 0.25), method
