"""Find crops that share pixels, in training and test."""

from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.crops import open_crops
from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.params import load_params
from nuclei.splitting.near_duplicates import tabulate_near_duplicates
from nuclei.splitting.overlap import overlapping_pairs, save_pairs


def main() -> None:
    params = load_params(Path("params.yaml"))
    train, test = (open_crops(Path("data/crops"), part) for part in ("train", "test"))

    pairs = overlapping_pairs(train, test, window=params.overlap.window, border=params.overlap.border)
    save_pairs(Path("data/overlaps.npz"), pairs)
    print(f"{len(pairs):,} pairs of crops share pixels")

    alike, out = pd.DataFrame(columns=["First", "Second", "Bits"]), Path("reports/overlap/near_duplicates.csv")
    if params.overlap.near_duplicates:
        names = np.concatenate([read_csv(Path(f"data/crops/{part}.csv"))["Filename"] for part in ("train", "test")])
        alike = tabulate_near_duplicates(train, test, pairs, names)
        if len(alike):
            print(f"WARNING: {len(alike):,} pairs look alike without sharing pixels; see {out}")
    write_csv(out, alike)


if __name__ == "__main__":
    run(main)
