import numpy as np
import pandas as pd
import pytest

from nuclei.crops import Places
from nuclei.evaluation.evaluate import cross_fit
from nuclei.evaluation.with_neighbours import evaluate_with_neighbours
from nuclei.task import CLASSES


def clusters(misleading_fold=None):
    """60 clusters of 12 nuclei, one in ten of another class, in 3 folds; of the misleading fold, all is mixed up."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 12)
    labels = (group + (rng.random(720) < 0.1)) % 4
    crops = pd.DataFrame({"Label": labels, "Group": group, "Fold": group // 4 % 3})
    logits = rng.normal(size=(720, 4)) + 1.2 * np.eye(4)[crops["Label"]]
    tissue = group.copy()
    if misleading_fold is not None:
        inside = crops["Fold"].to_numpy() == misleading_fold
        tissue[inside] = 100 + rng.permutation(tissue[inside])  # any nuclei of the fold lie together
    return crops, logits, Places(tissue, np.zeros(720), np.tile(3.0 * np.arange(12), 60))


def evaluate(crops, logits, places):
    probabilities = cross_fit(logits, crops["Label"].to_numpy(), crops["Fold"].to_numpy())[0]
    predictions = crops.assign(**{f"Probability_{label}": values for label, values in enumerate(probabilities.T)})
    return evaluate_with_neighbours(predictions, places, CLASSES, "CNN", bins=10)


def test_neighbours_of_the_same_class_raise_all_scores_and_the_verdict_says_so():
    crops, logits, places = clusters()
    result = evaluate(crops, logits, places)
    alone = (logits.argmax(axis=1) == crops["Label"]).mean()
    assert result["with_neighbours"] == 1
    assert result["accuracy"] > alone + 0.15 and result["balanced_accuracy"] > 0.8
    assert result["accuracy_low"] < result["accuracy"] < result["accuracy_high"]
    comparison = result["comparison"]
    assert comparison["accuracy_difference"] == pytest.approx(result["accuracy"] - alone)
    assert comparison["verdict"].startswith("The difference is significant")
    assert "CNN with neighbours classifies" in comparison["verdict"]


def test_the_weights_of_a_fold_come_from_the_other_folds():
    """Where neighbours mislead in one fold alone, its nuclei are classified worse with them: the fit never saw it."""
    crops, logits, places = clusters(misleading_fold=1)
    whole = evaluate(crops, logits, places)
    inside = crops["Fold"].to_numpy() == 1
    correct = logits.argmax(axis=1) == crops["Label"]
    others = evaluate(crops[~inside], logits[~inside], places.take(~inside))
    expected = others["accuracy"] * (~inside).sum()  # of these two folds, each fitted on one fold alone
    in_misled_fold = (whole["accuracy"] * len(crops) - expected) / inside.sum()
    assert in_misled_fold < correct[inside].mean() - 0.1


def test_without_any_neighbours_nothing_changes():
    crops, logits, places = clusters()
    result = evaluate(crops, logits, places._replace(tissue=np.arange(len(crops))))
    assert result["with_neighbours"] == 0
    assert result["comparison"]["accuracy_difference"] == 0
