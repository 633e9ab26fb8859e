"""What happens to the scores when crops look otherwise than in training."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from nuclei.crops import FoldedCrops
from nuclei.device import Compute, setup_device
from nuclei.evaluation.corruptions import Corruption, corruptions, restainings
from nuclei.models.checkpoint import Model
from nuclei.models.predict import predict_logits
from nuclei.models.transforms import stain_jitter
from nuclei.params import Robustness
from nuclei.progress import Progress

STAINS = ("haematoxylin", "eosin")
BATCH = 512  # crops changed at once: a multiple of the batches of `predict_logits`, so that those stay what they were


def stain_corruptions(factors: Sequence[float]) -> list[Corruption]:
    """Return corruptions "haematoxylin" and "eosin": one stain weaker or stronger, the other as it is.

    Grey crops have one density; it counts as haematoxylin, and eosin changes nothing. Training changes stains in the
    same way (see `stain_jitter`), within `stain`: what the network has seen.

    Args:
        factors: How many times as strong, above 0: the severities.

    Source: Ruifrok & Johnston 2001, whose matrix, scikit-image's HED, separates the stains.
    """
    return [
        Corruption(name, factor, partial(strengthen_stain, stain=stain, factor=factor))
        for stain, name in enumerate(STAINS)
        for factor in factors
    ]


def strengthen_stain(crops: np.ndarray, stain: int, factor: float) -> np.ndarray:
    """Make a stain weaker or stronger.

    Args:
        crops: uint8 (N, H, W, C).
        stain: 0 haematoxylin, 1 eosin.
        factor: How many times as strong, above 0.

    Returns:
        uint8 (N, H, W, C).
    """
    factors = torch.ones(len(crops), 3)
    factors[:, stain] = factor
    return stain_jitter(torch.from_numpy(np.array(crops)), factors, torch.zeros_like(factors)).round().byte().numpy()


def predict_under(
    predict: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, corruptions: Sequence[Corruption]
) -> np.ndarray:
    """Predict each crop under each corruption.

    Networks of several folds: call this per fold with its network and its held-out crops, and put the columns together.

    Args:
        predict: From crops, uint8 (n, H, W, C), to logits or probabilities, float (n, K), with views averaged or not.
        crops: uint8 (N, H, W, C), may be memory-mapped.
        corruptions: M of them.

    Returns:
        The predicted classes, int64 (M, N).
    """
    predicted = np.empty((len(corruptions), len(crops)), np.int64)
    for start in range(0, len(crops), BATCH):
        batch = np.asarray(crops[start : start + BATCH])
        for corruption, row in zip(corruptions, predicted, strict=True):
            row[start : start + len(batch)] = predict(corruption.apply(batch)).argmax(axis=1)
    return predicted


def score_under(labels: np.ndarray, predicted: np.ndarray, corruptions: Sequence[Corruption]) -> pd.DataFrame:
    """Score predictions under corruptions.

    Args:
        labels: int (N,).
        predicted: int (M, N), of `predict_under`.
        corruptions: M of them.

    Returns:
        One row per corruption: corruption, severity, accuracy, balanced_accuracy.
    """
    return pd.DataFrame(
        {
            "corruption": [corruption.name for corruption in corruptions],
            "severity": [float(corruption.severity) for corruption in corruptions],
            "accuracy": [accuracy_score(labels, row) for row in predicted],
            "balanced_accuracy": [balanced_accuracy_score(labels, row) for row in predicted],
        }
    )


def score_robustness(
    models: Mapping[int, Model], crops: FoldedCrops, settings: Robustness, compute: Compute, precision: str
) -> pd.DataFrame:
    """Score one kind of network under every corruption, each crop by the network that never saw its fold.

    Args:
        models: By held-out fold.
        crops: All labelled crops.
        settings: Which corruptions, on how many crops, drawn at random from the held-out folds.
        compute: What computes; on a cluster, this process alone.
        precision: As in `autocast`.

    Returns:
        See `score_under`. Predicted from each crop as it is, without averaging over flips and rotations.
    """
    device = setup_device(compute.device, compute.threads)
    held_out = np.flatnonzero(np.isin(crops.folds, list(models)))
    rows = np.sort(np.random.default_rng(settings.seed).permutation(held_out)[: settings.crops])
    severities = {name: getattr(settings, name) for name in ("blur", "jpeg", "gamma", "resolution")}
    conditions = corruptions(severities) + stain_corruptions(settings.factors)
    conditions += restainings(crops.data.crops[held_out], crops.groups[held_out], settings.stains)
    predicted = np.empty((len(conditions), len(rows)), np.int64)
    with Progress(len(models), next(iter(models.values())).name, "fold") as progress:
        for done, (fold, model) in enumerate(models.items(), start=1):
            predict = partial(predict_logits, model.network, device=device, precision=precision)
            inside = crops.folds[rows] == fold
            predicted[:, inside] = predict_under(predict, crops.data.crops[rows[inside]], conditions)
            progress.update(done)
    return score_under(crops.data.labels[rows], predicted, conditions)
