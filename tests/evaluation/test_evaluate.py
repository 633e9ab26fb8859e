import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from nuclei.evaluation.evaluate import evaluate
from nuclei.evaluation.metrics import METRICS, draw_resamples
from nuclei.params import Evaluate

SETTINGS = Evaluate(seed=0, resamples=200, bins=10, coverage=0.9)


def guess(labels, sureness, seed):
    """Logits that are right most of the time."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), 4))
    logits[np.arange(len(labels)), labels] += sureness
    return logits


@pytest.fixture(scope="module")
def found():
    labels = np.arange(200) % 4
    names = [f"{number}.png" for number in range(200)]
    holdout = pd.DataFrame({"Filename": names, "Label": labels, "Group": np.arange(200) // 10})
    logits = guess(labels, 2.0, seed=0)
    resamples = draw_resamples(holdout["Group"].to_numpy(), SETTINGS.resamples, SETTINGS.seed)
    return holdout, logits, evaluate(holdout, logits, labels, guess(labels, 2.0, seed=1), 2.0, resamples, SETTINGS)


def test_every_score_stands_between_the_ends_of_its_interval(found):
    _, _, own = found
    for metric in METRICS:
        assert own.scores[f"{metric}_low"] <= own.scores[metric] <= own.scores[f"{metric}_high"], metric


def test_probabilities_are_those_at_the_temperature(found):
    holdout, logits, own = found
    assert own.predictions["Filename"].tolist() == holdout["Filename"].tolist()
    np.testing.assert_allclose(own.predictions.filter(like="Probability_"), softmax(logits / 2, axis=1))
    assert own.scores["temperature"] == 2.0
    assert own.scores["ece"] != own.scores["ece_unscaled"]


def test_conformal_sets_hold_the_label_as_often_as_asked_for(found):
    holdout, _, own = found
    sets = own.predictions["Set"].str.split()
    held = np.mean([str(label) in some for label, some in zip(holdout["Label"], sets, strict=True)])
    assert held == pytest.approx(own.scores["set_coverage"]) == pytest.approx(0.9, abs=0.07)
    assert np.mean([len(some) for some in sets]) == pytest.approx(own.scores["set_size"])
    assert own.classes["Crops"].tolist() == [50] * 4
