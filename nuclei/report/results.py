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
from nuclei.task import NETWORKS

# What the page shows, by the stage that makes it, each in the stage's folder of reports/; {} stands for each network.
FILES = {
    "unzip": ["unzip/data.json"],
    "overlap": ["overlap/near_duplicates.csv"],
    "split": ["split/leakage.json", "split/mosaics.png"],
    "weights": ["weights/weights.json"],
    "tune": ["tune/{}/tuned.json", "tune/{}/trials.csv"],
    "train_{}": ["train/{}/curves.csv", "train/{}/environment.json"],
    "evaluate": [
        "evaluate/metrics_{}.json",
        "evaluate/classes_{}.csv",
        "evaluate/groups_{}.csv",
        "evaluate/predictions_{}.csv",
        "evaluate/selective_{}.csv",
        "evaluate/comparison.json",
        "evaluate/neighbours.json",
    ],
    "robustness": ["robustness/scores_{}.csv"],
    "review": ["review/label_issues.csv"],
    "explain": ["explain", "explain/faithfulness.csv"],
    "submit": ["submit/submission_{}.csv", "submit/neighbours.json"],
    "figures": [
        "figures/curves.png",
        "figures/trials.png",
        "figures/reliability.png",
        "figures/selective.png",
        "figures/robustness.png",
        "figures/faithfulness.png",
    ],
}
STAGES = {
    file.format(model): stage.format(model) for stage, files in FILES.items() for file in files for model in NETWORKS
}
PHOTOGRAPHS = ("split/mosaics.png",)


def read_results(folder: Path) -> dict[str, Any]:
    """Read each file that the page shows.

    Args:
        folder: reports/.

    Returns:
        By path in `folder`: what JSON holds, a table or an image, of a folder its images by name; None where it is
        missing.
    """
    return {name: _read(folder / name, name in PHOTOGRAPHS) if (folder / name).exists() else None for name in STAGES}


def read_table(path: Path) -> pd.DataFrame:
    """Read the table `path` that `write_csv` wrote; a column of numbers with gaps has NaN in the gaps."""
    table = read_csv(path)
    return table.assign(**{name: _numbers(table[name]) for name in table.columns.difference(NAMES)})


def _read(path: Path, photograph: bool) -> Any:
    if path.is_dir():
        return {image.stem: inline_file(image, photograph=True) for image in sorted(path.glob("*.png"))}
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".png":
        return inline_file(path, photograph=photograph)
    return read_table(path)


def _numbers(column: pd.Series) -> pd.Series:
    """Turn a column of numbers and gaps into numbers and NaN; leave others alone."""
    try:
        return pd.to_numeric(column.replace("", np.nan))
    except ValueError:
        return column


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Read what a model says of itself.

    Args:
        path: What `save_model` wrote.

    Returns:
        Its metadata, and under "parameters" the number of its trained parameters.
    """
    with safe_open(path, framework="np") as file:
        others = ("running_", "num_batches", "reference.")  # of batch norm, and of what tells novelty
        trained = [name for name in file.keys() if not any(other in name for other in others)]  # noqa: SIM118
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in trained)
        return json.loads(file.metadata()["nuclei"]) | {"parameters": count}
