"""Zips to arrays."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image
from skimage.io import imread

from benchmarks.measure import Job, Way
from benchmarks.setting import Setting, extract
from nuclei.data.unpack import unpack


def seed(setting: Setting) -> Job:
    """Extract all files, then read them one by one."""
    names = {part: setting.index(part)["Filename"] for part in ("train", "test")}

    def run() -> int:
        png = Path(mkdtemp(dir=setting.folder))
        extract(setting.raw, png)
        arrays = [np.stack([imread(png / part / name) for name in some]) for part, some in names.items()]
        return sum(map(len, arrays))

    return Job(run)


def ours(setting: Setting) -> Job:
    """Check everything, decode straight from the zip, write arrays and the data report."""

    def run() -> int:
        report = unpack(setting.raw, Path(mkdtemp(dir=setting.folder)) / "crops", channels=3)
        return report["train"]["crops"] + report["test"]["crops"]

    return Job(run)


def limit(setting: Setting) -> Job:
    """Decode the same PNGs from memory, on all threads, and do nothing else."""
    contents = []
    for part in ("train", "test"):
        with zipfile.ZipFile(setting.raw / f"{part}.zip") as archive:
            contents += [archive.read(name) for name in archive.namelist() if name.endswith(".png")]

    def decode(content: bytes) -> None:
        with Image.open(io.BytesIO(content)) as image:
            image.load()

    def run() -> int:
        with ThreadPoolExecutor(setting.threads) as pool:
            return len(list(pool.map(decode, contents)))

    return Job(run)


WAYS: dict[str, Way] = {"seed": seed, "ours": ours, "limit": limit}
