"""Crops that deserve a second look: suspected label errors (confident learning), and the networks' worst errors."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

TOLERANCE = 1e-6  # equal probabilities reach their mean, however it was rounded


def label_issues(labels: np.ndarray, probabilities: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """List the crops whose label the models contradict more confidently than is usual for the class they suggest.

    The off-diagonal of the confident joint: a crop counts as class j where the mean probability of j over the models
    reaches the mean that j has among the crops labelled j, so that a class of which the models are never confident is
    neither flagged nor suggested more often than one of which they always are. Crops whose label is the most probable
    class all the same are left out. A suspected label need not be wrong: where the models fail on a whole slide, its
    crops are listed; their share is no error rate of the labels.

    Args:
        labels: int (N,), in 0..K-1, as given.
        probabilities: By model, float (N, K), each crop predicted by a network that was not trained on it; one
            that was would have learnt the labels, wrong ones too.

    Returns:
        One row per suspected label, the most suspect first: Row (in 0..N-1), Label, Suggested (classes),
        Probability_<model> (of the suggested class, per model) and Score, the normalised margin in [0, 1]: half of 1
        plus the mean probability of the label minus that of the suggested class; 0 is the most suspect.

    Source: Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", eq. 1 and 2;
    the ranking by normalised margin is from its section 3.2.
    """
    mean = np.stack(list(probabilities.values())).mean(axis=0, dtype=np.float64)
    rows, classes = np.arange(len(labels)), mean.shape[1]
    crops = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=mean[rows, labels], minlength=classes)
    thresholds = np.divide(sums, crops, out=np.full(classes, np.inf), where=crops > 0)  # no label, no suggestion
    confident = np.where(mean >= thresholds - TOLERANCE, mean, -1)
    suggested = confident.argmax(axis=1)
    suspect = confident.max(axis=1) >= 0
    suspect &= (suggested != labels) & (mean.argmax(axis=1) != labels)
    rows, suggested = rows[suspect], suggested[suspect]
    margin = mean[rows, labels[rows]] - mean[rows, suggested]
    table = pd.DataFrame({"Row": rows, "Label": labels[rows], "Suggested": suggested})
    for model, values in probabilities.items():
        table[f"Probability_{model}"] = values[rows, suggested]
    table["Score"] = (1 + margin) / 2
    return table.sort_values("Score", kind="stable", ignore_index=True)


def find_label_issues(predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """List the suspected label errors in tables of predictions.

    Args:
        predictions: By model, one row per crop, the same crops in the same order: Filename, Label, Probability_0..K-1.

    Returns:
        The table of `label_issues` with the Filename in the place of the Row.
    """
    crops = next(iter(predictions.values()))
    probabilities = {name: table.filter(like="Probability_").to_numpy() for name, table in predictions.items()}
    issues = label_issues(crops["Label"].to_numpy(), probabilities)
    issues.insert(0, "Filename", crops["Filename"].to_numpy()[issues.pop("Row")])
    return issues


def worst_errors(labels: np.ndarray, probabilities: np.ndarray, crops: int) -> np.ndarray:
    """Choose the crops that any model misclassifies most confidently.

    Args:
        labels: int (N,).
        probabilities: float (models, N, K).
        crops: How many at most.

    Returns:
        Rows, int (M,), the most confident first.
    """
    return confident_errors(labels, probabilities.argmax(axis=2), probabilities.max(axis=2))[:crops]


def confident_errors(labels: np.ndarray, predicted: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Rank the crops that any model misclassifies by its confidence in the incorrect class.

    Args:
        labels: int (N,).
        predicted: int (models, N).
        confidences: float (models, N), above 0.

    Returns:
        Rows, int (M,), the most confident first.
    """
    confidence = np.where(predicted != labels, confidences, 0).max(axis=0)
    return np.argsort(-confidence, kind="stable")[: np.count_nonzero(confidence)]
