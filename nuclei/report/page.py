"""The results of the pipeline: one HTML page that needs no other file, and a model card of each network."""

import hashlib
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from nuclei.evaluation.review import confident_errors
from nuclei.models.calibration import TARGETS
from nuclei.params import Params
from nuclei.report.inline import inline_crop
from nuclei.report.results import STAGES
from nuclei.report.tables import (
    Measured,
    count_search,
    describe_change,
    explanation_table,
    group_table,
    robustness_table,
)
from nuclei.task import NETWORKS, Task, method_title

GROUP_ROWS = 30  # of the table of groups: the largest
HUES = 5  # colours of networks in report.css, those of `nuclei.figures.COLOURS`

Known = TypeVar("Known")


@dataclass(frozen=True)
class Misclassified:
    """A held-out crop that at least one network misclassified.

    Attributes:
        name: Its file.
        label: Its class, as labelled.
        predicted: By network, the predicted class and its probability.
    """

    name: str
    label: int
    predicted: dict[str, tuple[int, float]]


def build_page(
    results: Mapping[str, Any], crops: Mapping[str, np.ndarray], task: Task, params: Params, parameters: str
) -> str:
    """Build the page, which names no other file or host, and is the same for the same input.

    Args:
        results: Of `read_results`.
        crops: By file name, uint8 (H, W, C); empty where they are missing.
        task: The classes, and the size of the crops.
        params: All parameters.
        parameters: The text of params.yaml, which is shown.

    Returns:
        HTML.
    """
    predictions = _by_network(results, "evaluate/predictions_{}.csv")
    errors = list_misclassified(predictions)
    shown = errors[: params.report.crops]
    issues = results["review/label_issues.csv"]
    issues = [] if issues is None else issues.head(params.report.crops).to_dict("records")
    pictured = {error.name for error in shown} | {issue["Filename"] for issue in issues}
    folder = Path(__file__).parent / "templates"
    style, script = ((folder / f"report.{kind}").read_text() for kind in ("css", "js"))
    return _template("report.html.j2").render(
        **_context(results, task, params),
        interval_axis=interval_axis,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        confusions={model: confusion(table, len(task.classes)) for model, table in predictions.items()},
        groups=group_table(_by_network(results, "evaluate/groups_{}.csv"), predictions, params.titles, task.classes),
        group_rows=GROUP_ROWS,
        errors=errors,
        shown=shown,
        error_counts=count_errors(errors),
        robustness=robustness_table(_by_network(results, "robustness/scores_{}.csv"), params.titles),
        explanation_table=explanation_table,
        search={model: count_search(results, model, params) for model in NETWORKS},
        environments=_environments(results, params.titles),
        issues=issues,
        thumbnails={name: inline_crop(crops[name]) for name in sorted(pictured & crops.keys())},
        parameters=parameters,
    )


def build_card(
    results: Mapping[str, Any], model: str, checkpoint: Mapping[str, Any] | None, task: Task, params: Params
) -> str:
    """Build the model card of a network, Markdown.

    Args:
        results: Of `read_results`.
        model: A key of `nuclei.task.NETWORKS`.
        checkpoint: Of `describe_checkpoint`, for the network that was trained on all crops; None where it is missing.
        task: The classes, and the size of the crops.
        params: All parameters.

    Returns:
        Markdown.
    """
    return _template("model_card.md.j2").render(
        **_context(results, task, params), model=model, checkpoint=checkpoint, targets=TARGETS
    )


def list_misclassified(predictions: Mapping[str, pd.DataFrame]) -> list[Misclassified]:
    """List the crops that any network misclassified, by the confidence in the incorrect class, the highest first.

    Args:
        predictions: By network, one row per crop, the same crops: Filename, Label, Predicted, Probability_0..K-1.
    """
    if not predictions:
        return []
    tables = list(predictions.values())
    names, labels = tables[0]["Filename"], tables[0]["Label"].to_numpy()
    predicted = np.stack([table["Predicted"] for table in tables])
    confidences = np.stack([table.filter(like="Probability").max(axis=1) for table in tables])
    return [
        Misclassified(
            names[row],
            int(labels[row]),
            {model: (int(predicted[i, row]), float(confidences[i, row])) for i, model in enumerate(predictions)},
        )
        for row in confident_errors(labels, predicted, confidences)
    ]


def count_errors(errors: Sequence[Misclassified]) -> list[tuple[tuple[int, int], int]]:
    """Count misclassified crops by label and by the incorrect class that a network predicted.

    Args:
        errors: Of `list_misclassified`.

    Returns:
        Label and predicted class, and their number of crops, the most frequent pair first.
    """
    pairs = Counter(
        pair
        for error in errors
        for pair in {(error.label, predicted) for predicted, _ in error.predicted.values() if predicted != error.label}
    )
    return sorted(pairs.items(), key=lambda item: (-item[1], item[0]))


def confusion(predictions: pd.DataFrame, classes: int) -> np.ndarray:
    """Count crops by label and predicted class.

    Args:
        predictions: One row per crop: Label and Predicted.
        classes: Number of classes, K.

    Returns:
        int64 (K, K), labels down, predicted classes across.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predictions["Label"], predictions["Predicted"]), 1)
    return counts


def interval_axis(metrics: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """Put the intervals of `metric` of all networks on one axis.

    Args:
        metrics: By network, its scores with their intervals.
        metric: One of them.

    Returns:
        Its low and high ends, and by network the positions of low end, score and high end, in 0..100; None where a
        network has no interval.
    """
    marks: dict[str, list[Any]] = {
        model: [scores.get(f"{metric}{end}") for end in ("_low", "", "_high")] for model, scores in metrics.items()
    }
    values = [value for triple in marks.values() for value in triple]
    if any(value is None for value in values):
        return None
    low, high = min(values), max(values)
    if low == high:
        return None
    positions = {model: [100 * (value - low) / (high - low) for value in triple] for model, triple in marks.items()}
    return {"low": low, "high": high, "positions": positions}


def _environments(results: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[list[str], dict[str, Any]]]:
    """List the environments in which networks were trained, each with the titles of those networks."""
    environments: list[tuple[list[str], dict[str, Any]]] = []
    for model, environment in _by_network(results, "train/{}/environment.json").items():
        same = next((trained for trained, other in environments if other == environment), None)
        if same is None:
            environments.append(([titles[model]], environment))
        else:
            same.append(titles[model])
    return environments


def _by_network(results: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Return the results called `pattern` by network, without those that are missing."""
    contents = {model: results[pattern.format(model)] for model in NETWORKS}
    return {model: content for model, content in contents.items() if content is not None}


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("nuclei.report"),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"decimals": _decimals, "share": _share, "count": _count, "cell": _cell, "listed": _listed}
    return environment.get_template(name)


def _context(results: Mapping[str, Any], task: Task, params: Params) -> dict[str, Any]:
    return {
        "results": results,
        "by_network": partial(_by_network, results),
        "stages": STAGES,
        "titles": params.titles,
        "networks": NETWORKS,
        "pretrained": [params.titles[name] for name, entry in NETWORKS.items() if entry.pretrained],
        "hues": {model: f"network{i % HUES}" for i, model in enumerate(NETWORKS)},
        "method_title": method_title,
        "describe_change": describe_change,
        "classes": task.classes,
        "heading_text": params.report.title,
        "tissue": params.report.tissue,
        "side": task.side,
        "mpp": task.mpp,
        "params": params,
    }


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline style or script that may stay."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _decimals(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if _is_known(value) else "–"


def _share(value: float | None, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %" if _is_known(value) else "–"


def _count(value: int) -> str:
    return f"{value:,}"


def _listed(words: Sequence[str], last: str = "and") -> str:
    """Join words as prose does: a, b and c."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def _cell(value: Any) -> str:
    """Write a table's value: counts whole, other numbers with three decimals, or digits where they are small."""
    if isinstance(value, Measured):
        error = f" ± {value.error:.3f}" if _is_known(value.error) else ""
        return f"{_decimals(value.value)}{error}"
    if not _is_known(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_known(value: Known | None) -> TypeGuard[Known]:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
