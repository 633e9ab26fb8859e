"""NuCLS: fields of view of breast cancer, 0.2 microns a pixel, from TCGA.

Amgad et al. 2022, "NuCLS", GigaScience 11. By the authors' page (sites.google.com/view/nucls/data-format) a zip holds
rgb/*.png and csv/*.csv of the same names; a row of a table is a nucleus with raw_classification, xmin, ymin, xmax and
ymax, pixels. Names of files hold TCGA's barcode, whose first three parts are the patient's.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nuclei.data.public.common import (
    LARGEST_TABLE,
    Member,
    content,
    decode_all,
    find,
    number_classes,
    open_zips,
    within,
    write_crops,
)
from nuclei.errors import InputError

MPP = 0.2
PATIENT = re.compile(r"TCGA-\w\w-\w{4}")
COLUMNS = ("raw_classification", "xmin", "ymin", "xmax", "ymax")
# Their raw classes; not: what the authors could not name.
NAMES = (
    "tumor",
    "mitotic_figure",
    "ductal_epithelium",
    "myoepithelium",
    "fibroblast",
    "vascular_endothelium",
    "lymphocyte",
    "plasma_cell",
    "macrophage",
    "neutrophil",
    "eosinophil",
    "apoptotic_body",
)


def import_nucls(archives: Sequence[Path], out: Path, seed: int) -> pd.DataFrame:
    """Write the competition's four files, and groups.csv with the patient of each crop; return the table of the crops.

    Crops span 25 microns, 125 pixels of these images, and are resampled to 100. Raises InputError.
    """
    with open_zips(archives) as zips:
        images, tables = find(zips, "rgb/[^/]+[.]png"), find(zips, "csv/[^/]+[.]csv")
        if not images or not images.keys() <= tables.keys():
            lonely = sorted(images.keys() - tables.keys())[:1]
            raise InputError(
                f"{', '.join(map(str, archives))}: expected NuCLS's rgb/*.png, each with its csv/*.csv"
                f"{f'; {lonely[0]!a} has no table' if lonely else ''}"
            )
        sizes = ((name, pixels.shape[:2]) for name, pixels in decode_all(images))
        nuclei = pd.concat([_read_table(name, tables[name], *size) for name, size in sizes], ignore_index=True)
        numbered, classes = number_classes(nuclei, NAMES)
        return write_crops(out, numbered, decode_all(images), MPP, seed, classes)


def _read_table(name: str, member: Member, height: int, width: int) -> pd.DataFrame:
    try:
        reader = csv.DictReader(io.StringIO(content(member, LARGEST_TABLE).decode("utf-8-sig")))
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"no column {min(set(COLUMNS) - set(reader.fieldnames or ()))}")
        rows = [
            (row["raw_classification"], *(float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")))
            for row in reader
        ]
    except (csv.Error, TypeError, ValueError) as error:
        raise InputError(f"{member}: expected a table with {','.join(COLUMNS)} ({error}): download it again") from None
    boxes = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = boxes.raw_classification.str.removeprefix("correction_")  # a second look of the authors'
    y, x = (boxes.ymin + boxes.ymax) / 2, (boxes.xmin + boxes.xmax) / 2
    patient = PATIENT.search(name)
    nuclei = pd.DataFrame({"tile": name, "y": y, "x": x, "kind": kinds, "group": patient[0] if patient else name})
    return nuclei[within(y, x, height, width, MPP)]
