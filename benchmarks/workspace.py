"""What a measurement works on: crops in a folder, a device, threads."""

import shutil
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.data.synthetic.sample import write_sample
from nuclei.data.unpack import unpack
from nuclei.files import read_csv
from nuclei.params import Params, Sample, load_params

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "benchmarks" / "results"


@dataclass(frozen=True)
class Workspace:
    """Where the crops are and what computes.

    folder: holds `raw` (the four files), `crops` (the arrays that this project reads), `png` (the files that the
        baseline reads)
    device: cuda, mps or cpu; threads: of the CPU; small: little work in each measurement, for a first look
    """

    folder: Path
    device: str
    threads: int
    small: bool = False

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def crops(self) -> Path:
        return self.folder / "crops"

    @property
    def png(self) -> Path:
        return self.folder / "png"

    def index(self, part: str) -> pd.DataFrame:
        """Filename and, for train, Label of each crop of `part`."""
        return read_csv(self.crops / f"{part}.csv")


@cache
def params() -> Params:
    """The project's parameters, as a user would run it."""
    return load_params(PROJECT / "params.yaml")


def prepare(folder: Path, raw: Path | None, train: int, test: int) -> None:
    """Fill `folder` with crops of the user's `raw` or, without one, of the built-in sample, at most so many a part."""
    if raw is None:
        write_sample(folder / "raw", Sample(seed=0, train=train, test=test, patients=8))
    else:
        draw_some(raw, folder / "raw", train, test)
    unpack(folder / "raw", folder / "crops", channels=3)
    extract(folder / "raw", folder / "png")


def extract(raw: Path, png: Path) -> None:
    """Unpack both zips into png/train and png/test, without the folders inside of them."""
    for part in ("train", "test"):
        (png / part).mkdir(parents=True)
        with zipfile.ZipFile(raw / f"{part}.zip") as archive:
            for member in archive.infolist():
                if member.filename.endswith(".png"):
                    (png / part / Path(member.filename).name).write_bytes(archive.read(member))


def draw_some(raw: Path, out: Path, train: int, test: int) -> None:
    """Copy `raw`, but with at most so many crops of each part, drawn at random."""
    out.mkdir(parents=True)
    for part, table, most in (("train", "train.csv", train), ("test", "example.csv", test)):
        rows = read_csv(raw / table)
        rows = rows.iloc[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]
        rows.to_csv(out / table, index=False)
        wanted = set(rows["Filename"])
        with zipfile.ZipFile(raw / f"{part}.zip") as source, zipfile.ZipFile(out / f"{part}.zip", "w") as copy:
            for member in source.infolist():
                if Path(member.filename).name in wanted:
                    copy.writestr(member, source.read(member))
    if (raw / "groups.csv").exists():
        shutil.copy(raw / "groups.csv", out)
