import numpy as np
import pandas as pd
import pytest
import torch
from references import NO_REFERENCE

from nuclei.device import Compute
from nuclei.errors import InputError
from nuclei.explanation.deletion_insertion import NULLS
from nuclei.explanation.explain import explain_models, select_and_explain
from nuclei.explanation.explainable import explainable, predict_single_view
from nuclei.explanation.gallery import draw_galleries
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import Explain
from nuclei.task import Task

CPU = torch.device("cpu")
PLACE = Compute("cpu", torch.get_num_threads())
TITLES = {"cnn": "CNN", "resnet": "ResNet18"}
CLASSES = ["stroma", "tumour", "lymphocyte", "other"]
SETTINGS = Explain(
    seed=0,
    crops=8,
    stratify=True,
    gallery_crops=1,
    errors=3,
    sanity_crops=4,
    random_networks=2,
    methods=["integrated_gradients", "occlusion", "layer_cam"],
    occlusion=[{"window": 50, "stride": 50}, {"window": 30, "stride": 30}],
    ig_steps=2,
    smoothgrad_samples=0,
    noise_std=0.05,
    shap_samples=2,
    curve_points=2,
    patch=20,
)
SHAPE = SmallCNN(3, (4, 4, 4, 4), (8, 8), 0.0)


def model(seed):
    """A network with random weights that is surer than most of those are."""
    return Model("cnn", build(SHAPE, seed).eval(), SHAPE, Calibration(), Calibration(0.05), NO_REFERENCE)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (24, 100, 100, 3), np.uint8)
    table = pd.DataFrame({"Filename": [f"{row}.png" for row in range(24)], "Label": np.arange(24) % 4})
    return crops, table.assign(Group=np.arange(24) // 2, Fold=np.arange(24) // 2 % 3)


@pytest.fixture(scope="module")
def explanation(data):
    crops, table = data
    models = {"cnn": {0: model(0), 1: model(1)}, "resnet": {0: model(2), 1: model(3)}}
    heldout = table[table["Fold"] < 2]
    rng = np.random.default_rng(1)
    columns = [f"Probability_{label}" for label in range(4)]
    predictions = {
        name: pd.DataFrame(rng.dirichlet(np.ones(4), len(heldout)), columns=columns, index=heldout.index)
        for name in models
    }
    return select_and_explain(crops, table, predictions, models, Task(tuple(CLASSES)), SETTINGS, "float32", PLACE)


def test_only_held_out_crops_are_chosen_and_each_is_judged_by_its_folds_network(data, explanation):
    crops, _ = data
    table, examples = explanation.table, explanation.examples
    assert table["Fold"].isin([0, 1]).all() and set(table["Fold"]) == {0, 1}
    assert (examples.drawn, len(examples.errors)) == (8, 3) and 8 <= len(table) <= 11
    assert table["Label"][:8].value_counts().tolist() == [2, 2, 2, 2]
    rows = table["Filename"].str.removesuffix(".png").astype(int)
    assert np.array_equal(explanation.crops, crops[rows])
    for name, seeds in (("cnn", (0, 1)), ("resnet", (2, 3))):
        found = explanation.attributions[name]
        for fold, seed in enumerate(seeds):
            here = (table["Fold"] == fold).to_numpy()
            expected = predict_single_view(explainable(model(seed)), explanation.crops[here], CPU, "float32")
            np.testing.assert_allclose(found.probabilities[here], expected, atol=1e-5)
        assert np.array_equal(found.targets, found.probabilities.argmax(axis=1))


def test_every_crop_gets_its_maps_and_the_checked_ones_those_of_random_networks(explanation):
    found, count = explanation.attributions["cnn"], len(explanation.table)
    names = ["integrated_gradients", "occlusion_50", "occlusion_30", "layer_cam"]
    assert list(found.maps) == names
    assert all(maps.shape == (count, 100, 100) for maps in found.maps.values())
    assert all(maps.shape == (4, 100, 100) for maps in found.shifted.values())
    assert list(found.randomized) == ["integrated_gradients", "layer_cam"]
    assert all(maps.shape == (2, 4, 100, 100) for maps in found.randomized.values())
    first, second = found.randomized["integrated_gradients"]
    assert not np.allclose(first, second)
    curves = found.curves.groupby("Network")
    assert {number: set(rows["Crop"]) for number, rows in curves} == {
        0: set(range(8)),
        1: {0, 1, 2, 3},
        2: {0, 1, 2, 3},
    }
    assert set(found.curves.loc[found.curves["Network"] == 0, "Method"]) == {*names, *NULLS}


def test_folds_come_back_in_the_order_of_the_crops(data):
    crops, table = data
    chosen = np.array([3, 0, 8, 7, 1])  # of folds 1, 0, 1, 0, 0
    folds, colours = table["Fold"].to_numpy()[chosen], np.full((2, 3), 128.0)
    settings = SETTINGS.model_copy(update={"sanity_crops": 3})
    networks = {0: model(0), 1: model(1)}
    common = (settings, "float32", PLACE)
    whole = explain_models(networks, crops[chosen], folds, chosen, 4, {0: colours, 1: colours}, *common)
    for position, (row, fold) in enumerate(zip(chosen, folds, strict=True)):
        scored = int(position < 4)
        alone = explain_models(
            networks, crops[[row]], np.array([fold]), np.array([row]), scored, {fold: colours}, *common
        )
        for method, maps in alone.maps.items():
            reach = np.abs(maps).max()
            np.testing.assert_allclose(whole.maps[method][position] / reach, maps[0] / reach, atol=1e-3)
        if position < 3:
            reach = np.abs(alone.shifted["occlusion_50"]).max()
            np.testing.assert_allclose(
                whole.shifted["occlusion_50"][position] / reach, alone.shifted["occlusion_50"][0] / reach, atol=1e-3
            )
        if scored:
            rows = whole.curves[(whole.curves["Crop"] == position) & (whole.curves["Network"] == 0)]
            expected = alone.curves[alone.curves["Network"] == 0]
            np.testing.assert_allclose(rows["Probability"], expected["Probability"], atol=1e-3)


def test_the_galleries_show_a_few_of_the_drawn_crops_per_class_and_the_errors(explanation):
    figures = dict(draw_galleries(explanation, CLASSES, TITLES, SETTINGS.gallery_crops))
    assert list(figures) == ["0_stroma", "1_tumour", "2_lymphocyte", "3_other", "4_worst_errors"]
    rows = [sum("true:" in ax.get_title(loc="left") for ax in figure.axes) for figure in figures.values()]
    assert rows == [1, 1, 1, 1, 3]
    titles = [ax.get_title(loc="left") for ax in figures["1_tumour"].axes]
    first = explanation.table[explanation.table["Label"] == 1].index[0]
    row = explanation.attributions["cnn"].probabilities[first]
    assert f"CNN\n{CLASSES[row.argmax()]} {row.max():.0%}" in titles  # of the view that is explained


def test_the_arrays_to_save_name_model_and_method(explanation):
    arrays = explanation.arrays()
    count = len(explanation.table)
    assert {"Filename", "Label", "nucleus", "cnn_layer_cam", "resnet_occlusion_30", "cnn_predicted"} <= set(arrays)
    assert all(len(array) == count for array in arrays.values())


@pytest.mark.parametrize(("change", "named"), [({"patch": 200}, "explain.patch: 200"), ({}, "window 150")])
def test_a_window_or_patch_larger_than_the_crops_is_named(data, change, named):
    settings = SETTINGS.model_dump() | change
    if not change:
        settings["occlusion"] = [{"window": 150, "stride": 10}]
    with pytest.raises(InputError, match=f"{named} is larger than the crops, 100x100 pixels"):
        select_and_explain(
            *data, {}, {"cnn": {0: model(0)}}, Task(tuple(CLASSES)), Explain(**settings), "float32", PLACE
        )
