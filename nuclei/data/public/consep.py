"""CoNSeP: 41 tiles of colon at 40x, 1000x1000 pixels; what the competition's crops were cut from.

Graham et al. 2019, "HoVer-Net", Medical Image Analysis 58. The zip holds CoNSeP/Train and CoNSeP/Test with
Images/*.png and Labels/*.mat; a .mat has inst_map (H, W), inst_type (N, 1) and inst_centroid (N, 2), x and y as
`get_inst_centroid` of the authors' code (github.com/vqdang/hover_net) returns them. Patients are not told.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat, whosmat

from nuclei.data.public.common import Member, content, decode_all, find, open_zips, within, write_crops
from nuclei.errors import InputError
from nuclei.task import CLASSES, MPP

# By name: the classes, and the label of each of the authors' types. Those of the competition leave out other cells,
# fibroblasts and endothelium; HoVer-Net's are its authors' in their paper.
CLASS_SETS: dict[str, tuple[tuple[str, ...], dict[int, int]]] = {
    "competition": (CLASSES, {3: 0, 4: 1, 6: 2, 2: 3}),
    "hovernet": (
        ("miscellaneous", "inflammatory", "epithelial", "spindle-shaped"),
        {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 3},
    ),
    "all": (
        (
            "other",
            "inflammatory",
            "healthy epithelial",
            "dysplastic or malignant epithelial",
            "fibroblast",
            "muscle",
            "endothelial",
        ),
        {number: number - 1 for number in range(1, 8)},
    ),
}
LARGEST_LABELS = 2**26  # bytes of a .mat
MOST_UNPACKED = 2**27  # bytes: a tile's labels take 8 million
MOST_VALUES = 2**24  # of an array: a tile has a million pixels
COMPRESSED = 15  # type of an element


def import_consep(
    archives: Sequence[Path], out: Path, seed: int, class_set: str = "competition", official_split: bool = False
) -> pd.DataFrame:
    """Write the competition's four files, and groups.csv with the tile of each crop; return the table of the crops.

    class_set: of `CLASS_SETS`; official_split: the tiles in Train are for training, those in Test for test, as in what
    is published; else 60 % and 40 % of the crops, drawn by class, as the competition's

    Crops are `tile[y - 50 : y + 50, x - 50 : x + 50]` around rounded centroids, as the competition's.
    Raises InputError.
    """
    with open_zips(archives) as zips:
        images, labels = find(zips, "Images/[^/]+[.]png"), find(zips, "Labels/[^/]+[.]mat")
        if not images or images.keys() != labels.keys():
            lonely = sorted(images.keys() ^ labels.keys())[:1]
            raise InputError(
                f"{', '.join(map(str, archives))}: expected CoNSeP's Images/*.png, each with its Labels/*.mat"
                f"{f'; {lonely[0]!a} has one of them only' if lonely else ''}"
            )
        classes, types = CLASS_SETS[class_set]
        nuclei = pd.concat([_read_labels(tile, member, types) for tile, member in labels.items()], ignore_index=True)
        if official_split:
            roles = {tile: _official_role(member) for tile, member in labels.items()}
            nuclei["role"] = nuclei.tile.map(roles)
        return write_crops(out, nuclei, decode_all(images), MPP, seed, classes)


def _official_role(member: Member) -> str:
    """Return train or test, by the folder of a tile. Raises InputError where it is in neither."""
    parts = [part.lower() for part in Path(member.info.filename).parts]
    roles = [role for role in ("train", "test") if role in parts]
    if len(roles) != 1:
        raise InputError(f"{member}: in neither of CoNSeP's folders Train and Test: --split official needs them")
    return roles[0]


def _require_moderate(data: bytes) -> None:
    """Raise ValueError where a MAT file unpacks to, or promises, more than the labels of a tile can have.

    Source: MathWorks, "MAT-File Format", version 5: a header of 128 bytes, then elements with type and size.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    unpacked, at = 0, 128
    while order and at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind == COMPRESSED:
            unpacked += len(zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], MOST_UNPACKED + 1))
        if unpacked > MOST_UNPACKED:
            raise ValueError(f"more than {MOST_UNPACKED // 2**20} MiB unpacked")
        at += 8 + size
    for name, shape, _ in whosmat(io.BytesIO(data)):
        if math.prod(shape) > MOST_VALUES:
            raise ValueError(f"{name} of {math.prod(shape):,} values")


def _read_labels(tile: str, member: Member, types_to_labels: dict[int, int]) -> pd.DataFrame:
    data = content(member, LARGEST_LABELS)
    try:
        _require_moderate(data)
        values = loadmat(io.BytesIO(data), variable_names=["inst_map", "inst_type", "inst_centroid"])
        nucleus = values["inst_map"]
        types = values["inst_type"].ravel().astype(int)
        x, y = np.rint(values["inst_centroid"].reshape(len(types), 2)).astype(int).T
        height, width = nucleus.shape
        # Crescents aside, a centroid lies on a nucleus: not so if columns were taken for rows.
        on_nuclei = nucleus[y.clip(0, height - 1), x.clip(0, width - 1)] > 0
        if on_nuclei.mean() < 0.5:
            raise ValueError("centroids lie beside the nuclei")
    except Exception as error:  # what a broken file makes of SciPy's reader is anyone's guess
        raise InputError(
            f"{member}: expected inst_map, inst_type and inst_centroid ({' '.join(str(error).split())[:100]}): "
            "download the zip again"
        ) from None
    nuclei = pd.DataFrame({"tile": tile, "y": y, "x": x, "label": pd.Series(types).map(types_to_labels), "group": tile})
    return nuclei[nuclei.label.notna() & within(y, x, height, width, MPP)].astype({"label": int})
