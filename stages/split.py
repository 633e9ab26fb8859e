"""Give each labelled crop its fold: what shares pixels, or a patient or slide, stays together."""

from pathlib import Path

from nuclei.crops import open_crops
from nuclei.errors import run
from nuclei.figures import save_figure
from nuclei.files import read_csv, write_csv, write_json
from nuclei.params import load_params
from nuclei.splitting.mosaic import plot_split
from nuclei.splitting.overlap import load_pairs
from nuclei.splitting.split import split_crops
from nuclei.task import read_task


def main() -> None:
    params = load_params(Path("params.yaml"))
    crops, test = (read_csv(Path(f"data/crops/{part}.csv")) for part in ("train", "test"))
    pairs = load_pairs(Path("data/overlaps.npz"))

    split = split_crops(crops, pairs, len(test), read_task(Path("data/crops")), params.split, params.on_sample)
    write_csv(Path("data/split.csv"), split.table)
    write_json(Path("reports/split/leakage.json"), split.leakage)
    figure = plot_split(open_crops(Path("data/crops"), "train"), pairs, split, params.split.by)
    save_figure(figure, Path("reports/split/mosaics.png"))
    for fold, rows in split.table.groupby("Fold"):
        held_out = ", held out in turn" if rows["Held_out"].all() else ""
        print(f"fold {fold}: {len(rows):,} crops in {rows['Group'].nunique():,} groups{held_out}")
    for warning in split.warnings:
        print(f"WARNING: {warning}")


if __name__ == "__main__":
    run(main)
