"""Give each training crop its fold."""

from pathlib import Path

import numpy as np

from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.folds import assign_folds, roles
from nuclei.params import load_params


def main() -> None:
    params = load_params(Path("params.yaml"))
    index = read_csv(Path("data/crops/train.csv"))
    groups = index["Group"].to_numpy() if "Group" in index else np.arange(len(index))
    folds = assign_folds(index["Label"].to_numpy(), groups, params.split.folds, params.split.seed)
    write_csv(Path("data/split.csv"), index[["Filename", "Label"]].assign(Group=groups, Fold=folds))
    for role, members in roles(params.split.folds)._asdict().items():
        print(f"{role}: {np.isin(folds, members).sum()} crops")


if __name__ == "__main__":
    run(main)
