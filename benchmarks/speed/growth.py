"""How time and memory grow with the number of crops."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Implementation, Workload
from benchmarks.speed import decoding, predicting, training
from benchmarks.workspace import Workspace
from nuclei.crops import open_crops
from nuclei.splitting.overlap import overlapping_pairs

ENCODERS = 4  # threads


def enlarge(source: Workspace, folder: Path, crops: int) -> None:
    """Fill `folder` with the four files and the arrays of `crops` crops a part, most of them made from others.

    A made crop is a moved and slightly noisy one of `source`: a new crop to all that follows, with a PNG's usual size.
    """
    originals = open_crops(source.crops, "train")
    labels = source.index("train")["Label"].to_numpy()
    (folder / "crops").mkdir(parents=True)
    (folder / "raw").mkdir()
    rows = np.arange(crops) % len(originals)

    def make(number: int) -> np.ndarray:
        original = originals[rows[number]]
        if number < len(originals):
            return original
        rng = np.random.default_rng(number)
        moved = np.roll(original, rng.integers(0, 100, 2), axis=(0, 1))
        return (moved.astype(np.int16) + rng.integers(-1, 2, moved.shape, np.int16)).clip(0, 255).astype(np.uint8)

    def encode(number: int) -> bytes:
        file = BytesIO()
        Image.fromarray(array[number]).save(file, "PNG", compress_level=1)
        return file.getvalue()

    shape = (crops, *originals.shape[1:])
    array = np.lib.format.open_memmap(folder / "crops" / "train.npy", "w+", np.uint8, shape)
    with zipfile.ZipFile(folder / "raw" / "train.zip", "w") as archive, ThreadPoolExecutor(ENCODERS) as pool:
        for start in range(0, crops, 1024):
            block = range(start, min(start + 1024, crops))
            for number, crop in zip(block, pool.map(make, block), strict=True):
                array[number] = crop
            for number, content in zip(block, pool.map(encode, block), strict=True):
                archive.writestr(f"{number}.png", content)
    array.flush()
    lines = [f"{number}.png,{labels[row]}" for number, row in enumerate(rows)]
    table = "\n".join(["Filename,Label", *lines, ""])
    (folder / "raw" / "train.csv").write_text(table)
    (folder / "crops" / "train.csv").write_text(table)
    with zipfile.ZipFile(folder / "raw" / "test.zip", "w") as archive:  # one crop: the training part is what grows
        archive.writestr("test.png", encode(0))
    (folder / "raw" / "example.csv").write_text("Filename\ntest.png\n")


def overlap(workspace: Workspace) -> Workload:
    crops = open_crops(workspace.crops, "train")

    def run() -> int:
        overlapping_pairs(crops, threads=workspace.threads)
        return len(crops)

    return Workload(run)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "zips to arrays": decoding.run_project,
    "overlap search": overlap,
    "CNN, a training epoch": partial(training.run_project, "cnn"),
    "CNN, prediction": partial(predicting.run_project, "cnn", "train", None, False),
}
