"""Labels that deserve a second look."""

from collections.abc import Mapping

import numpy as np
import pandas as pd


def review_queue(predictions: Mapping[str, pd.DataFrame], confidence: float) -> pd.DataFrame:
    """Return the crops on which every model names the same class, surely, and the label names another one.

    predictions: a table a model, of the same crops in the same order: Filename, Label, Predicted, Probability_0, ...
    confidence: in [0, 1]; each model's probability of that class must reach it.
    Returns Filename, Label, Predicted, Confidence (of the least sure model), the surest first. The models must not
    have been trained on these crops: they would have learnt the labels, wrong ones too.
    Source: Northcutt et al. 2021, "Confident learning: estimating uncertainty in dataset labels".
    """
    tables = list(predictions.values())
    guesses = np.stack([table["Predicted"] for table in tables])
    sure = np.stack([table.filter(like="Probability").max(axis=1) for table in tables]).min(axis=0)
    queue = tables[0][["Filename", "Label", "Predicted"]].assign(Confidence=sure)
    agreed = (guesses == guesses[0]).all(axis=0)
    chosen = queue[agreed & (guesses[0] != queue["Label"]) & (sure >= confidence)]
    return chosen.sort_values("Confidence", ascending=False, kind="stable", ignore_index=True)


def worst_errors(labels: np.ndarray, probabilities: np.ndarray, crops: int) -> np.ndarray:
    """Choose the `crops` that any model gets wrong and is surest of: rows, int (M,), the surest first.

    labels: int (N,); probabilities: float (models, N, K)
    """
    return surest_errors(labels, probabilities.argmax(axis=2), probabilities.max(axis=2))[:crops]


def surest_errors(labels: np.ndarray, guesses: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Rank the crops that any model gets wrong: rows, int (M,), those first where one is surest of a wrong class.

    labels: int (N,); guesses: int (models, N), the class of each; confidences: float (models, N), above 0
    """
    sureness = np.where(guesses != labels, confidences, 0).max(axis=0)
    return np.argsort(-sureness, kind="stable")[: np.count_nonzero(sureness)]
