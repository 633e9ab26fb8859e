"""Zips to arrays."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image
from skimage.io import imread

from benchmarks.measure import Implementation, Workload
from benchmarks.workspace import Workspace, extract
from nuclei.data.unpack import unpack


def run_baseline(workspace: Workspace) -> Workload:
    """Extract all files, then read them one by one."""
    names = {part: workspace.index(part)["Filename"] for part in ("train", "test")}

    def run() -> int:
        png = Path(mkdtemp(dir=workspace.folder))
        extract(workspace.raw, png)
        arrays = [np.stack([imread(png / part / name) for name in of_part]) for part, of_part in names.items()]
        return sum(map(len, arrays))

    return Workload(run)


def run_project(workspace: Workspace) -> Workload:
    """Check everything, decode straight from the zip, write arrays and the data report."""

    def run() -> int:
        report = unpack(workspace.raw, Path(mkdtemp(dir=workspace.folder)) / "crops", channels=3)
        return report["train"]["crops"] + report["test"]["crops"]

    return Workload(run)


def limit(workspace: Workspace) -> Workload:
    """Decode the same PNGs from memory, on all threads, and do nothing else."""
    contents = []
    for part in ("train", "test"):
        with zipfile.ZipFile(workspace.raw / f"{part}.zip") as archive:
            contents += [archive.read(name) for name in archive.namelist() if name.endswith(".png")]

    def decode(content: bytes) -> None:
        with Image.open(io.BytesIO(content)) as image:
            image.load()

    def run() -> int:
        with ThreadPoolExecutor(workspace.threads) as pool:
            return len(list(pool.map(decode, contents)))

    return Workload(run)


IMPLEMENTATIONS: dict[str, Implementation] = {"baseline": run_baseline, "project": run_project, "limit": limit}
