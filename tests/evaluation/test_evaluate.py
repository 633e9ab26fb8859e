import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from nuclei.evaluation.evaluate import cross_fit, evaluate, read_out_of_fold
from nuclei.evaluation.metrics import METRICS, calibration_error, score
from nuclei.files import write_json
from nuclei.models.temperature import fit_temperature
from nuclei.params import Evaluate
from nuclei.task import CLASSES

SETTINGS = Evaluate(seed=0, bins=10, target_coverage=0.9)
CROPS = 400


def guess(labels, sureness, seed):
    """Logits that are right most of the time, and twice as sure as they should be."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), 4))
    logits[np.arange(len(labels)), labels] += sureness
    return 2 * sureness * logits


@pytest.fixture(scope="module")
def evaluated():
    """Crops in 40 groups and 4 folds, their logits, and what is said of them."""
    group = np.arange(CROPS) // 10
    labels = np.random.default_rng(1).integers(0, 4, CROPS)
    crops = pd.DataFrame(
        {"Filename": [f"{n}.png" for n in range(CROPS)], "Label": labels, "Group": group, "Fold": group % 4}
    )
    logits = guess(labels, 1.5, seed=0)
    return crops, logits, evaluate(crops, logits, CLASSES, SETTINGS)


def test_every_score_stands_between_the_ends_of_its_interval(evaluated):
    scores = evaluated[2].scores
    for metric in set(METRICS) - {"ece"}:
        assert scores[f"{metric}_low"] < scores[metric] < scores[f"{metric}_high"], metric
    assert (scores["crops"], scores["groups"], scores["folds"]) == (CROPS, 40, 4)
    assert scores["effective_groups"] == pytest.approx(40)


def test_each_fold_is_calibrated_by_the_other_folds_alone(evaluated):
    crops, logits, _ = evaluated
    labels, folds = crops["Label"].to_numpy(), crops["Fold"].to_numpy()
    probabilities, temperatures = cross_fit(logits, labels, folds)
    expected = {fold: fit_temperature(logits[folds != fold], labels[folds != fold]) for fold in range(4)}
    assert temperatures == sorted(expected.values()) and temperatures[0] > 1.5
    for fold, temperature in expected.items():
        inside = folds == fold
        np.testing.assert_allclose(probabilities[inside], softmax(logits[inside] / temperature, axis=1))
    other_labels = np.where(folds == 2, (labels + 1) % 4, labels)
    changed, _ = cross_fit(logits, other_labels, folds)
    assert np.array_equal(changed[folds == 2], probabilities[folds == 2])
    assert all((changed[folds == fold] != probabilities[folds == fold]).any() for fold in (0, 1, 3))


def test_the_predictions_are_the_pooled_calibrated_ones(evaluated):
    crops, logits, evaluation = evaluated
    table = evaluation.predictions
    chances = [f"Probability_{label}" for label in range(4)]
    assert table.columns.tolist() == ["Filename", "Label", "Fold", "Group", "Predicted", *chances, "Set"]
    pd.testing.assert_frame_equal(
        table[["Filename", "Label", "Fold", "Group"]], crops[["Filename", "Label", "Fold", "Group"]]
    )
    probabilities, temperatures = cross_fit(logits, crops["Label"].to_numpy(), crops["Fold"].to_numpy())
    np.testing.assert_array_equal(table[chances], probabilities)
    assert table["Predicted"].tolist() == logits.argmax(axis=1).tolist()
    scores = evaluation.scores
    assert {metric: scores[metric] for metric in METRICS} == score(crops["Label"].to_numpy(), probabilities, 10)
    assert (scores["temperature_low"], scores["temperature_high"]) == (temperatures[0], temperatures[-1])


def test_calibration_is_compared_with_none_and_with_a_perfect_one(evaluated):
    crops, logits, evaluation = evaluated
    scores = evaluation.scores
    assert scores["ece_unscaled"] == calibration_error(crops["Label"].to_numpy(), softmax(logits, axis=1), 10)
    assert scores["ece"] < scores["ece_if_calibrated_high"] < scores["ece_unscaled"]
    assert 0 < scores["ece_if_calibrated"] < scores["ece_if_calibrated_high"]
    for calibrated in (0, 1):
        curve = evaluation.reliability[evaluation.reliability["calibrated"] == calibrated]
        assert curve["crops"].sum() == CROPS and curve["confidence"].is_monotonic_increasing
    assert evaluation.selective["selected_fraction"].iloc[-1] == 1
    assert evaluation.selective["accuracy"].iloc[-1] == pytest.approx(scores["accuracy"])


def test_conformal_sets_hold_the_label_as_often_as_asked_for(evaluated):
    crops, _, evaluation = evaluated
    sets = evaluation.predictions["Set"].str.split()
    held = np.array([str(label) in members for label, members in zip(crops["Label"], sets, strict=True)])
    assert held.mean() == pytest.approx(evaluation.scores["set_coverage"]) == pytest.approx(0.9, abs=0.05)
    assert evaluation.scores["accuracy"] < 0.85  # single classes would not do
    assert evaluation.scores["set_coverage_promised"] == 0.9
    assert np.mean([len(members) for members in sets]) == pytest.approx(evaluation.scores["set_size"])
    by_class = evaluation.classes.set_index("Class")
    assert by_class.index.tolist() == list(CLASSES)
    for label, name in enumerate(CLASSES):
        chosen = (crops["Label"] == label).to_numpy()
        assert by_class.loc[name, "Set_coverage"] == pytest.approx(held[chosen].mean())
        assert by_class.loc[name, "Crops"] == chosen.sum()


def test_few_groups_promise_less_and_have_no_intervals(evaluated):
    crops, logits, _ = evaluated
    few = evaluate(crops.assign(Group=crops["Fold"]), logits, CLASSES, SETTINGS)
    assert few.scores["set_coverage_promised"] == pytest.approx(3 / 4)  # a fold is calibrated on three groups
    assert few.scores["accuracy_low"] is None and few.scores["intervals_withheld"].startswith("No intervals")


def test_each_group_has_a_row_and_counts_once_in_their_mean(evaluated):
    crops, _, evaluation = evaluated
    correct = (evaluation.predictions["Predicted"] == crops["Label"]).groupby(crops["Group"]).mean()
    by_group = evaluation.groups.set_index("Group")["Accuracy"]
    pd.testing.assert_series_equal(by_group.sort_index(), correct, check_names=False)
    assert evaluation.scores["mean_accuracy_over_groups"] == pytest.approx(correct.mean())


def test_all_scores_are_json_and_all_tables_have_names(evaluated, tmp_path):
    write_json(tmp_path / "scores.json", evaluated[2].scores)
    assert json.loads((tmp_path / "scores.json").read_text()).keys() == evaluated[2].scores.keys()
    assert set(evaluated[2].tables()) == {"predictions", "classes", "groups", "reliability", "selective"}


def test_only_what_was_held_out_is_read(tmp_path):
    split = pd.DataFrame({"Filename": list("abcde"), "Label": 0, "Group": range(5), "Fold": [0, 1, 2, 1, 0]})
    averaged, single = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.savez(tmp_path / "out_of_fold.npz", rows=np.array([1, 3, 4]), averaged=averaged, single=single)
    for tta, expected in ((True, averaged), (False, single)):
        crops, logits = read_out_of_fold(tmp_path, split, tta)
        assert crops["Filename"].tolist() == ["b", "d", "e"] and crops.index.tolist() == [0, 1, 2]
        assert np.array_equal(logits, expected)
