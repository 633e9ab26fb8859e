"""What networks look at in held-out crops, each judged by the network that did not see it, and what that is worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.device import Compute
from nuclei.errors import InputError
from nuclei.explanation.examples import Examples, choose
from nuclei.explanation.explain_models import explain_models
from nuclei.explanation.faithfulness import Attributions, score_models, summarise
from nuclei.explanation.segmentation import centre_nucleus
from nuclei.files import atomic_directory, write_csv
from nuclei.models.checkpoint import Model
from nuclei.npz import write_npz
from nuclei.params import Explain
from nuclei.task import Task

COLOURS = 64  # mean colours of crops that the networks trained on, for GradientSHAP


@dataclass(frozen=True)
class Explanation:
    """What all models look at in N chosen crops, and how far that can be trusted.

    Attributes:
        table: One row per crop: Filename, Label, Group, Fold.
        examples: Why each crop was chosen.
        crops: uint8 (N, H, W, C).
        nuclei: bool (N, H, W), the nucleus in the middle.
        attributions: By model.
        scores: See `score_models`.
        curves: See `score_models`.
        means: See `summarise`.
    """

    table: pd.DataFrame
    examples: Examples
    crops: np.ndarray
    nuclei: np.ndarray
    attributions: Mapping[str, Attributions]
    scores: pd.DataFrame
    curves: pd.DataFrame
    means: pd.DataFrame

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `maps.npz` holds: the crops' names and labels, nuclei, and each model's maps and predictions."""
        arrays = {"Filename": self.table["Filename"].to_numpy(str), "Label": self.table["Label"].to_numpy()}
        arrays["nucleus"] = self.nuclei
        for name, model in self.attributions.items():
            arrays |= {f"{name}_{method}": maps for method, maps in model.maps.items()}
            arrays |= {f"{name}_predicted": model.targets, f"{name}_probabilities": model.probabilities}
        return arrays

    def save(self, folder: Path) -> None:
        """Write maps.npz (`arrays`) and scores.csv (`named_scores`) into a folder, which is replaced as a whole."""
        with atomic_directory(folder, replace=True) as temporary:
            write_npz(temporary / "maps.npz", self.arrays())
            write_csv(temporary / "scores.csv", self.named_scores())

    def overview(self) -> str:
        """Return the scores of the trained networks as a table for the screen."""
        trained = self.means[self.means["Weights"] == "trained"]
        columns = ["Model", "Baseline", "Method", "Insertion_gain", "Deletion_gain", "In_nucleus", "Stability"]
        return trained[columns].round(3).to_string(index=False)

    def named_scores(self) -> pd.DataFrame:
        """Return `scores` with the file name of each crop in the place of its number."""
        return self.scores.assign(Crop=self.table["Filename"][self.scores["Crop"]].array)


def select_and_explain(
    crops: np.ndarray,
    table: pd.DataFrame,
    predictions: Mapping[str, pd.DataFrame],
    models: Mapping[str, Mapping[int, Model]],
    task: Task,
    settings: Explain,
    precision: str,
    compute: Compute,
) -> Explanation:
    """Choose held-out crops and explain what each model says of them.

    Args:
        crops: uint8 (M, H, W, C), all labelled crops, may be memory-mapped.
        table: Their rows: Filename, Label, Group, Fold.
        predictions: By model, one row per held-out crop, in the order of `table`, with Probability_0..K-1; they only
            choose the errors.
        models: By name, the network of each fold that was held out from it.
        task: The K classes, and the resolution of the crops.
        settings: The section `explain` of params.yaml.
        precision: Of what needs no gradient, see `autocast`.
        compute: What each process computes with.

    Raises:
        InputError: A window or a patch is larger than the crops.
    """
    _check_sizes(settings, crops.shape[1:3])
    common_folds = set.intersection(*[set(networks) for networks in models.values()])
    held_out = np.flatnonzero(table["Fold"].isin(common_folds))
    examples = choose(
        table["Label"].to_numpy()[held_out],
        np.stack([rows.filter(like="Probability_").to_numpy() for rows in predictions.values()]),
        settings.crops,
        settings.stratify,
        settings.errors,
        settings.seed,
    )
    rows = held_out[examples.rows]
    chosen, chosen_table = np.array(crops[rows]), table.iloc[rows].reset_index(drop=True)
    folds, seeds = chosen_table["Fold"].to_numpy(), settings.seed + rows
    colours = {fold: _colours(crops, table["Fold"].to_numpy() != fold, settings.seed) for fold in np.unique(folds)}
    attributions = {
        name: explain_models(
            networks, chosen, folds, seeds, examples.drawn, colours, settings, precision, compute, desc=name
        )
        for name, networks in models.items()
    }
    nuclei = np.stack([centre_nucleus(crop, task.mpp) for crop in chosen])
    scores, curves = score_models(attributions, nuclei, settings.patch, task.mpp)
    means = summarise(scores, attributions, chosen_table["Group"].to_numpy(), task.classes)
    return Explanation(chosen_table, examples, chosen, nuclei, attributions, scores, curves, means)


def _check_sizes(settings: Explain, size: tuple[int, int]) -> None:
    largest = {f"explain.occlusion: window {item.window}": item.window for item in settings.occlusion}
    for name, length in (largest | {f"explain.patch: {settings.patch}": settings.patch}).items():
        if length > min(size):
            raise InputError(f"{name} is larger than the crops, {size[1]}x{size[0]} pixels: lower it")


def _colours(crops: np.ndarray, trained_on: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean colours, float (B, C), of crops that a network trained on."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(trained_on))[:COLOURS]
    return np.asarray(crops[rows]).mean(axis=(1, 2))
