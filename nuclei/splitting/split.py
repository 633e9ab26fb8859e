"""Which fold each labelled crop gets, and what that split leaks."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nuclei.errors import InputError
from nuclei.params import Split
from nuclei.splitting.folds import assign_folds, fold_warnings
from nuclei.splitting.leakage import check_folds, measure_leakage, merge_groups, training_groups
from nuclei.splitting.overlap import Pairs
from nuclei.splitting.places import crop_centres
from nuclei.task import Task

HELD_OUT_ON_SAMPLE = 2  # folds, where the parameters leave it open: a quick look


class SplitCrops(NamedTuple):
    """The split of the labelled crops.

    Attributes:
        table: One row per crop: Filename, Label, Group, Fold; Held_out, 1 where the fold is held out in turn; Mosaic,
            the number of the crops that are joined by shared pixels, test crops among them; X and Y, pixels, where the
            centre of the crop lies in that mosaic.
        random_folds: int64 (N,), as a split crop by crop would have been.
        leakage: See `measure_leakage`.
        warnings: What the scores rest on poorly, a line each.
    """

    table: pd.DataFrame
    random_folds: np.ndarray
    leakage: dict[str, Any]
    warnings: list[str]


def split_crops(
    crops: pd.DataFrame, pairs: Pairs, n_test: int, task: Task, settings: Split, on_sample: bool
) -> SplitCrops:
    """Give each labelled crop its fold.

    Args:
        crops: One row per crop: Filename, Label and, where it is known, Group.
        pairs: Of crops that share pixels, the N labelled ones numbered first, then the `n_test` others.
        n_test: Crops to predict.
        task: The names of the classes, and the size of the crops.
        settings: The section `split` of params.yaml.
        on_sample: Whether these are the built-in sample's crops, of which fewer folds are held out.

    Raises:
        InputError: Groups are asked for and there are none, too few groups hold a class, or the split leaks.
    """
    n = len(crops)
    labels, single = crops["Label"].to_numpy(), np.arange(n)
    given = crops["Group"].to_numpy() if "Group" in crops else single
    if settings.by == "group":
        if "Group" not in crops:
            raise InputError("split.by: group needs a column Group in train.csv, or groups.csv beside it: add one")
        group = merge_groups(given)
    else:
        group = merge_groups(training_groups(pairs, n, n_test), given)
    random_folds = assign_folds(labels, single, settings.folds, settings.seed, task.classes)
    folds, warnings = random_folds, []
    if settings.by != "random":
        folds = assign_folds(labels, group, settings.folds, settings.seed, task.classes)
        check_folds(pairs[pairs.second < n], folds, crops["Filename"].to_numpy())
        warnings = fold_warnings(labels, group, folds, task.classes)
    leakage = measure_leakage(pairs, folds, random_folds, n_test)
    if leakage["pairs_across_folds"]:
        warnings.append(f"the split leaks: {leakage['pairs_across_folds']:,} pairs of crops share pixels across folds")
    held_out = min(settings.held_out or (HELD_OUT_ON_SAMPLE if on_sample else settings.folds), settings.folds)
    table = crops[["Filename", "Label"]].assign(Group=group, Fold=folds, Held_out=(folds < held_out).astype(int))
    mosaic, y, x = (values[:n] for values in crop_centres(pairs, n + n_test, task.side))
    table = table.assign(Mosaic=mosaic, X=x, Y=y)
    return SplitCrops(table, random_folds, leakage, warnings)
