"""Small archives in exactly CoNSeP's format."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
from scipy.io import savemat
from tissue import tissue

from nuclei.data.public.consep import CLASS_SETS

Tile = tuple[np.ndarray, pd.DataFrame, dict[str, np.ndarray]]  # pixels; nuclei with their kinds; what its .mat holds
TYPE_OF_LABEL = {label: kind for kind, label in CLASS_SETS["competition"][1].items()}


def encode(pixels: np.ndarray) -> bytes:
    png = io.BytesIO()
    PIL.Image.fromarray(pixels).save(png, "PNG", compress_level=1)
    return png.getvalue()


def labels(nuclei: pd.DataFrame, shape: tuple[int, int], kinds: np.ndarray) -> dict[str, np.ndarray]:
    """What CoNSeP's .mat files hold, as HoVer-Net's authors describe it."""
    inst_map, type_map = np.zeros(shape), np.zeros(shape)
    for number, (y, x, kind) in enumerate(zip(nuclei.y, nuclei.x, kinds, strict=True), start=1):
        part = np.s_[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        inst_map[part], type_map[part] = number, kind
    return {
        "inst_map": inst_map,
        "type_map": type_map,
        "inst_type": kinds[:, None].astype(np.float64),
        "inst_centroid": nuclei[["x", "y"]].to_numpy(np.float64),
    }


def mat(values: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


@cache
def draw_tiles() -> dict[str, Tile]:
    """Draw two tiles with their nuclei and types: some fibroblasts (5) among them, centroids off the pixels."""
    pixels, nuclei = tissue()
    rng = np.random.default_rng(0)
    found = {}
    for number in (1, 2):
        own = nuclei[nuclei.x // 400 == number - 1]
        own = own.assign(x=own.x - 400 * (number - 1))
        kinds = own.label.map(TYPE_OF_LABEL).to_numpy(copy=True)
        kinds[rng.random(len(kinds)) < 0.1] = 5
        values = labels(own, (400, 400), kinds)
        values["inst_centroid"] += rng.uniform(-0.4, 0.4, values["inst_centroid"].shape)
        found[f"train_{number}"] = pixels[:, 400 * (number - 1) : 400 * number], own.assign(kind=kinds), values
    return found


def write_consep(path: Path, tiles: dict[str, Tile], **changes: bytes | None) -> Path:
    """Zip tiles as the authors did; `changes` are other members, None for one that is missing."""
    members = {}
    for name, (pixels, _, values) in tiles.items():
        members[f"CoNSeP/Train/Images/{name}.png"] = encode(
            np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        )
        members[f"CoNSeP/Train/Labels/{name}.mat"] = mat(values)
        members[f"CoNSeP/Train/Overlay/{name}.png"] = encode(pixels)
    members |= {"CoNSeP/README.txt": b"...", "__MACOSX/CoNSeP/Train/Images/._train_1.png": b"..."}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changes).items():
            if content is not None:
                archive.writestr(name, content)
    return path
