"""Synthetic H&E colon tissue in the competition's layout, so that everything runs without data.

A tile is two concentration maps, haematoxylin and eosin, that Beer and Lambert's law turns into RGB with the stain
vectors of Ruifrok & Johnston (2001) and of Macenko et al. (2009), the two ends between which the patients lie.
As in the competition, a tile holds normal or cancer epithelium but never both, crops are cut around nuclei, and so
the crops of a tile overlap.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.data.competition import competition_writer, numbers
from nuclei.data.synthetic.canvas import TILE
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.params import Sample
from nuclei.task import CLASSES

CROP = 100  # pixels a side
SHARES = (0.18, 0.36, 0.15, 0.31)  # of the classes, a little flatter than the competition's


def draw_sample(config: Sample) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Draw tiles, patient after patient, until they hold enough nuclei of each class, and choose the crops.

    Every patient has at least one tile of normal and one of cancer tissue, and there are at least three of each.
    The crops are drawn at random from all nuclei at least half a crop from the border, by class.

    Returns the tiles and a table of the crops: role (train or test), number (in the file name; says nothing of class
    or tile), label, tile, patient, and y, x of the nucleus in its tile.
    """
    quotas = {"train": _quotas(config.train), "test": _quotas(config.test)}
    wanted = quotas["train"] + quotas["test"]
    tiles: list[np.ndarray] = []
    tables: list[pd.DataFrame] = []
    drawn = np.zeros(len(CLASSES), int)
    while len(tiles) < max(6, 2 * config.patients) or (drawn < wanted).any():
        visit, patient = divmod(len(tiles), config.patients)
        stain = draw_stain(np.random.default_rng([config.seed, 0, patient]))
        tile, nuclei = draw_tile(np.random.default_rng([config.seed, 1, len(tiles)]), stain, (visit + patient) % 2 == 1)
        inside = nuclei[nuclei[["y", "x"]].isin(range(CROP // 2, TILE - CROP // 2 + 1)).all(axis=1)]
        tables.append(inside.assign(tile=len(tiles), patient=patient))
        drawn += np.bincount(inside.label, minlength=len(CLASSES))
        tiles.append(tile)
    shuffled = pd.concat(tables, ignore_index=True).sample(frac=1, random_state=np.random.default_rng([config.seed, 2]))
    rank = shuffled.groupby("label").cumcount()
    train = rank < quotas["train"][shuffled.label]
    test = ~train & (rank < wanted[shuffled.label])
    in_train, in_test = numbers(config.train, config.test)
    parts = [
        shuffled[train].assign(role="train", number=in_train),
        shuffled[test].assign(role="test", number=in_test),
    ]
    return tiles, pd.concat(parts, ignore_index=True)


def write_sample(out: Path, config: Sample) -> None:
    """Write train.zip, train.csv, test.zip and example.csv into the folder `out`: all of them or none.

    The bytes depend on `config` alone. Neither tiles nor patients are told: as with the competition's files, who
    wants to know which crops share pixels has to look.
    """
    tiles, table = draw_sample(config)
    with competition_writer(out, table, replace=True) as add:
        for row in table.itertuples():
            top, left = row.y - CROP // 2, row.x - CROP // 2
            add(row.role, row.number, tiles[row.tile][top : top + CROP, left : left + CROP])


def _quotas(total: int) -> np.ndarray:
    """Return the crops a class, int, (K,): five each where there are enough, the rest by SHARES."""
    least = min(5, total // len(CLASSES))
    exact = np.array(SHARES) * (total - least * len(CLASSES))
    counts = np.floor(exact).astype(int)
    left = total - least * len(CLASSES) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts + least
