"""What the pipeline found: one HTML page that needs no other file, and a model card of each network."""

import hashlib
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from nuclei.evaluation.review import confident_errors
from nuclei.params import Params
from nuclei.report.inline import inline_crop
from nuclei.report.results import STAGES
from nuclei.task import CLASSES, TITLES, method_title


@dataclass(frozen=True)
class Wrong:
    """A held-out crop that a network got wrong: its label, and of each network the class and its probability."""

    name: str
    label: int
    guesses: dict[str, tuple[int, float]]


def build_page(results: Mapping[str, Any], crops: Mapping[str, np.ndarray], params: Params, parameters: str) -> str:
    """Return the page: HTML that names no other file or host, the same for the same input.

    results: by `read_results`; crops: of each file name uint8 (H, W, C), none where they are not there
    parameters: the text of params.yaml, to be shown
    """
    predictions = _of_each(results, "predictions_{}.csv")
    errors = wrong_predictions(predictions)
    shown = errors[: params.report.crops]
    review = [] if results["review.csv"] is None else results["review.csv"].head(params.report.crops)
    pictured = {wrong.name for wrong in shown} | set(review["Filename"] if len(review) else ())
    folder = Path(__file__).parent / "templates"
    style, script = ((folder / f"report.{kind}").read_text() for kind in ("css", "js"))
    return _template("report.html.j2").render(
        **_context(results, params),
        interval_axis=interval_axis,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        confusions={model: confusion(table) for model, table in predictions.items()},
        errors=errors,
        shown=shown,
        mistakes=count_mistakes(errors),
        review=review,
        thumbnails={name: inline_crop(crops[name]) for name in sorted(pictured & crops.keys())},
        parameters=parameters,
    )


def build_card(results: Mapping[str, Any], model: str, checkpoint: Mapping[str, Any] | None, params: Params) -> str:
    """Return the model card of `model`, Markdown. checkpoint: by `describe_checkpoint`, None where it is missing."""
    return _template("model_card.md.j2").render(**_context(results, params), model=model, checkpoint=checkpoint)


def wrong_predictions(predictions: Mapping[str, pd.DataFrame]) -> list[Wrong]:
    """List the crops that any network got wrong, those first where a network was surest of a wrong class.

    predictions: a table a network, of the same crops: Filename, Label, Predicted, Probability_0, ...
    """
    if not predictions:
        return []
    tables = list(predictions.values())
    names, labels = tables[0]["Filename"], tables[0]["Label"].to_numpy()
    guesses = np.stack([table["Predicted"] for table in tables])
    chances = np.stack([table.filter(like="Probability").max(axis=1) for table in tables])
    return [
        Wrong(
            names[row],
            int(labels[row]),
            {
                model: (int(guess[row]), float(chance[row]))
                for model, guess, chance in zip(predictions, guesses, chances, strict=True)
            },
        )
        for row in confident_errors(labels, guesses, chances)
    ]


def count_mistakes(errors: Sequence[Wrong]) -> list[tuple[tuple[int, int], int]]:
    """Count the crops by label and by a class that a network took them for, the most frequent pair first."""
    pairs = Counter(
        pair
        for wrong in errors
        for pair in {(wrong.label, guess) for guess, _ in wrong.guesses.values() if guess != wrong.label}
    )
    return sorted(pairs.items(), key=lambda item: (-item[1], item[0]))


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Count crops by label and prediction: int64 (K, K)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(counts, (predictions["Label"], predictions["Predicted"]), 1)
    return counts


def interval_axis(scores: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """Compute the intervals of `metric` of each network on one axis: low and high end, places of each in 0..100.

    None where a network has no interval.
    """
    marks = {model: [own.get(f"{metric}{end}") for end in ("_low", "", "_high")] for model, own in scores.items()}
    values = [value for own in marks.values() for value in own]
    if None in values or min(values) == max(values):
        return None
    low, high = min(values), max(values)
    places = {model: [100 * (value - low) / (high - low) for value in own] for model, own in marks.items()}
    return {"low": low, "high": high, "places": places}


def _of_each(results: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Return what there is of `pattern` by network."""
    found = {model: results[pattern.format(model)] for model in TITLES}
    return {model: content for model, content in found.items() if content is not None}


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
    environment.filters |= {"decimals": _decimals, "share": _share, "count": _count, "cell": _cell}
    return environment.get_template(name)


def _context(results: Mapping[str, Any], params: Params) -> dict[str, Any]:
    return {
        "results": results,
        "each": partial(_of_each, results),
        "stages": STAGES,
        "titles": TITLES,
        "method_title": method_title,
        "classes": CLASSES,
        "params": params,
    }


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline style or script that may stay."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _decimals(value: float | None, places: int = 3) -> str:
    return "–" if _unknown(value) else f"{value:.{places}f}"


def _share(value: float | None, places: int = 1) -> str:
    return "–" if _unknown(value) else f"{100 * value:.{places}f} %"


def _count(value: int) -> str:
    return f"{value:,}"


def _cell(value: Any) -> str:
    """Write a table's value: counts whole, other numbers with three decimals, or digits where they are small."""
    if _unknown(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
