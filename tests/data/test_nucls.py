import io
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from tissue import tissue

from nuclei.data.cut import cut
from nuclei.data.public.nucls import NAMES as CLASSES_OF_NUCLS
from nuclei.data.public.nucls import import_nucls
from nuclei.data.unpack import unpack
from nuclei.errors import InputError

NAMES = {  # as the authors name them
    "TCGA-A1-A0SP-DX1_id-5ea4095addda5f8398977ebc_left-7053_top-53807_bottom-54056_right-7311": "TCGA-A1-A0SP",
    "P.1_E_TCGA-A2-A0CM-DX1_id-5ea4095addda5f839897a_left-1_top-2_bottom-3_right-4": "TCGA-A2-A0CM",
}
KINDS = {0: ["ductal_epithelium"], 1: ["tumor", "correction_tumor", "mitotic_figure"], 2: ["fibroblast"]}
KINDS[3] = ["lymphocyte", "plasma_cell", "macrophage", "neutrophil", "eosinophil"]
LEFT_OUT = ["unlabeled", "apoptotic_body", "myoepithelium", "vascular_endothelium", "correction_unlabeled"]


def draw():
    """Two fields of view with the tables of their nuclei."""
    pixels, nuclei = tissue()
    rng = np.random.default_rng(0)
    found = {}
    for number, name in enumerate(NAMES):
        own = nuclei[nuclei.x // 400 == number]
        kinds = [str(rng.choice(KINDS[label] if rng.random() < 0.9 else LEFT_OUT)) for label in own.label]
        x, y, half = own.x - 400 * number, own.y, rng.integers(4, 9, (2, len(own)))
        table = pd.DataFrame(
            {
                "raw_classification": kinds,
                "main_classification": "of no interest here",
                "super_classification": "of no interest here",
                "type": "rectangle",
                "xmin": x - half[0],
                "ymin": y - half[1],
                "xmax": x + half[0],
                "ymax": y + half[1],
                "coords_x": "1,2,2,1,1",
                "coords_y": "1,1,2,2,1",
            }
        )
        found[name] = pixels[:, 400 * number : 400 * (number + 1)], table.reset_index(drop=True)
    return found


def write_nucls(path, fields, **changes):
    members = {"NuCLS_dataset/train_test_splits/fold_1_train.csv": ",slide_name\n0,TCGA-A1-A0SP-DX1\n"}
    for name, (pixels, table) in fields.items():
        png = io.BytesIO()
        PIL.Image.fromarray(pixels).save(png, "PNG", compress_level=1)
        for folder in ("rgb", "mask", "visualization"):
            members[f"NuCLS_dataset/{folder}/{name}.png"] = png.getvalue()
        members[f"NuCLS_dataset/csv/{name}.csv"] = table.to_csv()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changes).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_boxes_become_crops_of_25_microns_grouped_by_patient(tmp_path):
    fields = draw()
    table = import_nucls([write_nucls(tmp_path / "NuCLS_dataset.zip", fields)], tmp_path / "raw", seed=0)
    unpack(tmp_path / "raw", tmp_path / "crops", channels=3, classes=None)
    expected = []
    for name, (_, boxes) in fields.items():
        for row in boxes.itertuples():
            y, x = (row.ymin + row.ymax) / 2, (row.xmin + row.xmax) / 2
            kind = row.raw_classification.removeprefix("correction_")
            if kind in CLASSES_OF_NUCLS and min(y, x) >= 62.5 and max(y, x) <= 400 - 62.5:
                expected.append((name, y, x, kind, NAMES[name]))
    kinds = Counter(kind for *_, kind, _ in expected)
    found = table[["tile", "y", "x", "name", "group"]].itertuples(index=False, name=None)
    assert sorted(found) == sorted(row for row in expected if kinds[row[3]] >= 2)
    assert {name for name in CLASSES_OF_NUCLS if kinds[name] >= 2} == set(table.name)
    train = table[table.role == "train"]
    for crop, row in zip(np.load(tmp_path / "crops/train.npy"), train.itertuples(), strict=True):
        assert np.array_equal(crop, cut(fields[row.tile][0], row.y, row.x, 125.0))
    assert pd.read_csv(tmp_path / "crops/train.csv").Group.tolist() == train.group.tolist()


FIRST = next(iter(NAMES))
TABLE, PICTURE = f"NuCLS_dataset/csv/{FIRST}.csv", f"NuCLS_dataset/rgb/{FIRST}.png"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({TABLE: None}, "has no table"),
        ({TABLE: "a,b\n1,2\n"}, "no column raw_classification"),
        ({TABLE: "raw_classification,xmin,ymin,xmax,ymax\ntumor,1,2,3\n"}, "expected a table with raw_classification"),
        (
            {TABLE: "raw_classification,xmin,ymin,xmax,ymax\ntumor,1,2,3,b\n"},
            "expected a table with raw_classification",
        ),
        ({TABLE: b"\xff\xfe"}, "expected a table with raw_classification"),
        ({PICTURE: b"no picture"}, "not a PNG, JPEG or TIFF"),
    ],
)
def test_what_is_not_nucls_ends_with_one_line_and_writes_nothing(changes, complaint, tmp_path):
    path = write_nucls(tmp_path / "NuCLS_dataset.zip", draw(), **changes)
    with pytest.raises(InputError) as caught:
        import_nucls([path], tmp_path / "raw", seed=0)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_another_zip_is_not_taken_for_nucls(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(InputError, match=r"other\.zip: expected NuCLS's rgb/\*\.png"):
        import_nucls([tmp_path / "other.zip"], tmp_path / "raw", seed=0)
