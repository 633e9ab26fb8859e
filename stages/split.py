"""Give each training crop its fold: what shares pixels stays together."""

from pathlib import Path

import numpy as np

from nuclei.crops import roles
from nuclei.errors import InputError, run
from nuclei.figures import save_figure
from nuclei.files import read_csv, write_csv, write_json
from nuclei.params import load_params
from nuclei.splitting.folds import assign_folds
from nuclei.splitting.leakage import check_folds, measure_leakage, merge_groups
from nuclei.splitting.mosaic import fold_colours, largest_mosaics, plot_mosaics
from nuclei.splitting.overlap import groups, load_pairs


def main() -> None:
    params = load_params(Path("params.yaml"))
    index, test = (read_csv(Path(f"data/crops/{part}.csv")) for part in ("train", "test"))
    crops = np.load("data/crops/train.npy", mmap_mode="r")
    pairs = load_pairs(Path("data/overlaps.npz"))
    n = len(index)
    within = pairs[pairs.second < n]
    labels, names, single = index["Label"].to_numpy(), index["Filename"].to_numpy(), np.arange(n)
    given = index["Group"].to_numpy() if "Group" in index else single
    if params.split.by == "group":
        if "Group" not in index:
            raise InputError("split.by: group needs a column Group in train.csv, or groups.csv beside it: add one")
        group = given
    else:
        group = merge_groups(groups(within, n), given)

    random_folds = assign_folds(labels, single, params.split.folds, params.split.seed)
    if params.split.by == "random":
        folds = random_folds
    else:
        folds = assign_folds(labels, group, params.split.folds, params.split.seed)
        check_folds(within, folds, names)
    report = measure_leakage(pairs, folds, random_folds, len(test))
    write_csv(Path("data/split.csv"), index[["Filename", "Label"]].assign(Group=group, Fold=folds))
    write_json(Path("reports/leakage.json"), report)
    rows = {"a random split": random_folds, f"this split, by {params.split.by}": folds}
    titles = {
        fold: f"fold {fold}: {role}"
        for role, members in roles(params.split.folds)._asdict().items()
        for fold in members
    }
    figure = plot_mosaics(
        {title: largest_mosaics(crops, within, fold_colours(some)) for title, some in rows.items()},
        dict(sorted(titles.items())),
    )
    save_figure(figure, Path("reports/mosaics.png"))
    for role, members in roles(params.split.folds)._asdict().items():
        some = np.isin(folds, members)
        print(f"{role}: {some.sum():,} crops in {len(np.unique(group[some])):,} groups")
    if report["pairs_across_folds"]:
        print(f"WARNING: the split leaks: {report['pairs_across_folds']:,} pairs of crops share pixels across folds")


if __name__ == "__main__":
    run(main)
