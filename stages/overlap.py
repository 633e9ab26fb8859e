"""Find crops that share pixels, in training and test."""

from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.params import load_params
from nuclei.splitting.near_duplicates import near_duplicates
from nuclei.splitting.overlap import overlapping_pairs, save_pairs


def main() -> None:
    params = load_params(Path("params.yaml"))
    folder = Path("data/crops")
    parts = [np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("train", "test")]
    pairs = overlapping_pairs(*parts, window=params.overlap.window, border=params.overlap.border)
    save_pairs(Path("data/overlaps.npz"), pairs)
    print(f"{len(pairs):,} pairs of crops share pixels")

    alike = pd.DataFrame(columns=["First", "Second", "Bits"])
    if params.overlap.near_duplicates:
        found = near_duplicates(*parts)
        shares = np.isin(found.first << 32 | found.second, pairs.first << 32 | pairs.second)
        names = np.concatenate([read_csv(folder / f"{part}.csv")["Filename"] for part in ("train", "test")])
        alike = pd.DataFrame({"First": names[found.first], "Second": names[found.second], "Bits": found.distance})
        alike = alike[~shares]
        if len(alike):
            print(
                f"WARNING: {len(alike):,} pairs look alike without sharing pixels; see reports/overlap/near_duplicates.csv"
            )
    write_csv(Path("reports/overlap/near_duplicates.csv"), alike)


if __name__ == "__main__":
    run(main)
