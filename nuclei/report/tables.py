"""Tables of the report that join what several stages or networks wrote."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nuclei.params import Params
from nuclei.task import method_title

CHANGES = {  # of crops, by corruption; {} is its severity
    "none": "unchanged",
    "blur": "Gaussian blur, standard deviation {} pixels",
    "jpeg": "JPEG compression, quality {}",
    "gamma": "gamma {}",
    "resolution": "resolution lowered, pixels {} times as large",
    "haematoxylin": "haematoxylin {} times as strong",
    "eosin": "eosin {} times as strong",
    "stain": "stained as another group (quantile {} of the distances)",
}


class Measured(NamedTuple):
    """A value with its standard error or standard deviation, NaN where that is unknown.

    Attributes:
        value: The value.
        error: In the same unit.
    """

    value: float
    error: float


class SearchCost(NamedTuple):
    """What the hyper-parameter search of one network cost, and what its trainings cost.

    Attributes:
        trials: Trainings of the search.
        trial_steps: Their optimizer steps.
        trial_crops: The crops in these steps.
        trainings: Networks that were trained afterwards.
        training_steps: Their optimizer steps.
        training_crops: The crops in these steps.
    """

    trials: int
    trial_steps: int
    trial_crops: int
    trainings: int
    training_steps: int
    training_crops: int


def group_table(
    groups: Mapping[str, pd.DataFrame],
    predictions: Mapping[str, pd.DataFrame],
    titles: Mapping[str, str],
    classes: Sequence[str],
) -> pd.DataFrame | None:
    """Join the scores per group of all networks.

    Args:
        groups: By network, of `nuclei.evaluation.metrics.score_groups`, of the same groups.
        predictions: By network: Filename and Group of the same crops.
        titles: Of the networks.
        classes: The K names.

    Returns:
        One row per group, the largest first: Group, First_crop (its first file, where there are predictions), Crops,
        the accuracy of each network under its title, and the crops of each class; None without any network.
    """
    if not groups:
        return None
    first = next(iter(groups.values()))
    table = first[["Group"]]
    for crops in list(predictions.values())[:1]:
        table = table.assign(First_crop=table["Group"].map(crops.groupby("Group")["Filename"].first()))
    table = table.assign(Crops=first["Crops"])
    for model, scores in groups.items():
        table = table.assign(**{titles[model]: table["Group"].map(scores.set_index("Group")["Accuracy"])})
    return table.join(first[list(classes)])


def robustness_table(scores: Mapping[str, pd.DataFrame], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Join the scores of all networks on changed crops.

    Args:
        scores: By network, of `nuclei.evaluation.robustness.score_under`, of the same changes.
        titles: Of the networks.

    Returns:
        One row per change: Change, in words, and accuracy and balanced accuracy of each network.
    """
    if not scores:
        return []
    rows = []
    for i, (corruption, severity) in enumerate(next(iter(scores.values()))[["corruption", "severity"]].to_numpy()):
        row: dict[str, Any] = {"Change": describe_change(corruption, severity)}
        for model, table in scores.items():
            row[f"{titles[model]}, accuracy"] = float(table["accuracy"][i])
            row[f"{titles[model]}, balanced accuracy"] = float(table["balanced_accuracy"][i])
        rows.append(row)
    return rows


def describe_change(corruption: str, severity: float) -> str:
    """Describe a corruption of crops, and its severity, in words; one that `CHANGES` has no words for, by its name."""
    return CHANGES.get(corruption, f"{corruption} {{}}").format(f"{severity:g}")


def explanation_table(faithfulness: pd.DataFrame) -> list[dict[str, Any]]:
    """Put the scores of one network's heat maps beside those of networks with random weights.

    Args:
        faithfulness: Its rows of `nuclei.explanation.faithfulness.summarise`.

    Returns:
        One row per baseline and method, null orders included: the finding, both gains with their standard errors over
        groups, the same of random weights with their standard deviations over networks, shares, and correlations.
    """
    keys = ["Baseline", "Method"]
    random = faithfulness[faithfulness["Weights"] == "random"].set_index(keys)
    rows = []
    for row in faithfulness[faithfulness["Weights"] == "trained"].to_dict("records"):
        key = (row["Baseline"], row["Method"])
        random_row = random.loc[key] if key in random.index else {}
        measured: dict[str, Any] = {"Baseline": method_title(row["Baseline"]), "Method": method_title(row["Method"])}
        measured["Finding"] = row["Finding"]
        for name in ("Deletion", "Insertion"):
            measured[f"{name} gain"] = Measured(row[f"{name}_gain"], row[f"{name}_error"])
            value, std = (random_row.get(f"{name}_{column}", np.nan) for column in ("gain", "spread"))
            measured[f"{name} gain, random"] = Measured(value, std)
        for column in ("In_disc", "In_nucleus", "Stability", "Agreement"):
            measured[column.replace("_", " ")] = row.get(column, np.nan)
        measured["Agreement, random"] = random_row.get("Agreement", np.nan)
        rows.append(measured)
    return rows


def count_search(results: Mapping[str, Any], model: str, params: Params) -> SearchCost | None:
    """Count what the search of one network cost, and what its trainings cost, from their tables.

    Args:
        results: Of `read_results`.
        model: A key of `nuclei.task.NETWORKS`.
        params: All parameters.

    Returns:
        The counts; None where a table is missing.
    """
    data, predictions = results["unzip/data.json"], results[f"evaluate/predictions_{model}.csv"]
    tuned, trials = results[f"tune/{model}/tuned.json"], results[f"tune/{model}/trials.csv"]
    curves = results[f"train/{model}/curves.csv"]
    if any(content is None for content in (data, tuned, trials, curves, predictions)):
        return None
    batch_size = params.batch_size or tuned["batch_size"]
    held_out = {str(fold): int(n) for fold, n in predictions["Fold"].value_counts().items()}
    epochs = {str(fold): int(n) for fold, n in curves.groupby("fold")["epoch"].max().items()}
    # The network of all crops has none held out.
    steps = sum(
        n * max((data["train"]["crops"] - held_out.get(fold, 0)) // batch_size, 1) for fold, n in epochs.items()
    )
    return SearchCost(
        len(trials), int(trials["steps"].sum()), int(trials["crops"].sum()), len(epochs), steps, steps * batch_size
    )
