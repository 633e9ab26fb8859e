"""What the stages wrote, read for the report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from nuclei.files import NAMES, read_csv
from nuclei.report.inline import inline_file
from nuclei.task import TITLES

# What the page shows, by the stage that makes it; {} stands for each network.
FILES = {
    "unzip": ["data.json"],
    "overlap": ["near_duplicates.csv"],
    "split": ["leakage.json", "mosaics.png"],
    "weights": ["weights.json"],
    "tune": ["tuned_{}.json", "trials_{}.csv", "trials.png"],
    "train_{}": ["curves_{}.csv"],
    "evaluate": [
        *("metrics_{}.json", "classes_{}.csv", "predictions_{}.csv", "abstention_{}.csv"),
        *("comparison.json", "environment.json", "curves.png", "reliability.png", "abstention.png"),
    ],
    "robustness": ["robustness_{}.csv", "robustness.png"],
    "crossval": ["crossval.json", "crossval.csv"],
    "review": ["review.csv"],
    "explain": ["explain", "faithfulness.png", "faithfulness.csv"],
    "submit": ["submission_{}.csv"],
}
STAGES = {
    file.format(model): stage.format(model) for stage, files in FILES.items() for file in files for model in TITLES
}
PHOTOGRAPHS = ("mosaics.png",)


def read_results(folder: Path) -> dict[str, Any]:
    """Read each file that the page shows, by its name: objects, tables, pictures; None where it is missing."""
    return {name: _read(folder / name) if (folder / name).exists() else None for name in STAGES}


def _read(path: Path) -> Any:
    if path.is_dir():
        return {picture.stem: inline_file(picture, photograph=True) for picture in sorted(path.glob("*.png"))}
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".png":
        return inline_file(path, photograph=path.name in PHOTOGRAPHS)
    table = read_csv(path)
    return table.assign(**{name: _numbers(table[name]) for name in table.columns.difference(NAMES)})


def _numbers(column: pd.Series) -> pd.Series:
    """Turn a column of numbers and gaps into numbers and NaN; leave others alone."""
    try:
        return pd.to_numeric(column.replace("", np.nan))
    except ValueError:
        return column


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Return what the model `path` says of itself, and its number of `parameters`."""
    with safe_open(path, framework="np") as file:
        trained = [name for name in file.keys() if "running_" not in name and "num_batches" not in name]  # noqa: SIM118
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in trained)
        return json.loads(file.metadata()["nuclei"]) | {"parameters": count}
