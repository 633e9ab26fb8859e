import zipfile

import numpy as np
import pandas as pd
import pytest
from consep import draw_tiles, mat, write_consep

from nuclei.data.public.common import write_crops
from nuclei.data.public.consep import CLASS_SETS, import_consep
from nuclei.data.unpack import unpack
from nuclei.errors import InputError
from nuclei.task import CLASSES


@pytest.fixture
def tiles():
    return draw_tiles()


def test_every_crop_lies_round_its_rounded_centroid_and_borders_are_left_out(tiles, tmp_path):
    table = import_consep([write_consep(tmp_path / "consep_dataset.zip", tiles)], tmp_path / "raw", seed=0)
    report = unpack(tmp_path / "raw", tmp_path / "crops", channels=3)
    expected = []
    for name, (_, nuclei, _) in tiles.items():
        kept = nuclei[nuclei.kind.ne(5) & nuclei.y.between(50, 350) & nuclei.x.between(50, 350)]
        expected += [
            (name, y, x, CLASS_SETS["competition"][1][kind])
            for y, x, kind in zip(kept.y, kept.x, kept.kind, strict=True)
        ]
    assert sorted(table[["tile", "y", "x", "label"]].itertuples(index=False, name=None)) == sorted(expected)
    for role in ("train", "test"):
        rows = table[table.role == role].reset_index(drop=True)
        assert len(rows) == report[role]["crops"]
        for crop, row in zip(np.load(tmp_path / f"crops/{role}.npy"), rows.itertuples(), strict=True):
            assert np.array_equal(crop, tiles[row.tile][0][row.y - 50 : row.y + 50, row.x - 50 : row.x + 50])
    train = pd.read_csv(tmp_path / "crops/train.csv")
    assert train.Label.tolist() == table.label[table.role == "train"].tolist()
    assert train.Group.tolist() == table.tile[table.role == "train"].tolist()


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_split(tiles, tmp_path):
    path = write_consep(tmp_path / "consep_dataset.zip", tiles)
    tables = [import_consep([path], tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in ("train.zip", "train.csv")
    )
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_the_split_has_the_competitions_counts(tmp_path):
    """Of as many nuclei of each class as CoNSeP has at least 50 pixels from a border."""
    counts = [1216, 5770, 1132, 4483]
    nuclei = pd.DataFrame(
        {"tile": "none", "y": 50, "x": 50, "label": np.repeat(range(len(CLASSES)), counts), "group": "none"}
    )
    table = write_crops(tmp_path / "raw", nuclei, [], mpp=0.25, seed=0)  # no tile: no crop is cut
    by_class = table.groupby(["role", "label"]).size().unstack()
    assert by_class.loc["train"].tolist() == [729, 3462, 679, 2690]
    assert by_class.loc["test"].tolist() == [487, 2308, 453, 1793]


def test_numbers_say_nothing_of_tile_or_class(tiles, tmp_path):
    table = import_consep([write_consep(tmp_path / "consep_dataset.zip", tiles)], tmp_path / "raw", seed=0)
    train = table[table.role == "train"].sort_values("number")
    assert not train.label.is_monotonic_increasing and not train.tile.is_monotonic_increasing
    assert abs(np.corrcoef(train.number, train.label)[0, 1]) < 0.3


def broken(values, **changes):
    return mat({name: value for name, value in (values | changes).items() if value is not None})


MAT = "CoNSeP/Train/Labels/train_1.mat"
PNG = "CoNSeP/Train/Images/train_1.png"
LEFT_OUT = "expected inst_map, inst_type and inst_centroid"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: {MAT: None}, "each with its Labels/*.mat; 'train_1' has one of them only"),
        (lambda v: {PNG: None}, "each with its Labels/*.mat; 'train_1' has one of them only"),
        (lambda v: {MAT: b"not a .mat"}, f"train_1.mat': {LEFT_OUT}"),
        (lambda v: {MAT: broken(v, inst_centroid=None)}, f"train_1.mat': {LEFT_OUT}"),
        (lambda v: {MAT: broken(v, inst_type=v["inst_type"][1:])}, f"train_1.mat': {LEFT_OUT}"),
        (lambda v: {MAT: broken(v, inst_centroid=v["inst_centroid"] + 12)}, "centroids lie beside the nuclei"),
        (lambda v: {PNG: b"no picture"}, "train_1.png': not a PNG, JPEG or TIFF"),
        (lambda v: {"CoNSeP/Test/Images/train_1.png": b""}, "there is another one"),
    ],
)
def test_what_is_not_consep_ends_with_one_line_and_writes_nothing(change, complaint, tiles, tmp_path):
    path = write_consep(tmp_path / "consep_dataset.zip", tiles, **change(tiles["train_1"][2]))
    with pytest.raises(InputError) as caught:
        import_consep([path], tmp_path / "raw", seed=0)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_zip_ends_with_one_line(tiles, tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    path = write_consep(tmp_path / "consep_dataset.zip", tiles)
    for archives, complaint in (
        ([tmp_path / "text.zip"], "not a whole zip file: download it again"),
        ([tmp_path / "missing.zip"], "cannot be read (No such file or directory)"),
        ([path, path], "there is another consep_dataset.zip: give each once"),
    ):
        with pytest.raises(InputError) as caught:
            import_consep(archives, tmp_path / "raw", seed=0)
        assert complaint in str(caught.value)


def test_a_class_that_hardly_occurs_is_an_error(tiles, tmp_path):
    pixels, nuclei, values = tiles["train_1"]
    kinds = nuclei.kind.where(nuclei.kind != 6, 5).to_numpy()
    some = {"train_1": (pixels, nuclei, values | {"inst_type": kinds[:, None]})}
    with pytest.raises(InputError, match=r"0 nuclei of class \w+"):
        import_consep([write_consep(tmp_path / "consep_dataset.zip", some)], tmp_path / "raw", seed=0)


@pytest.mark.parametrize("class_set", ["hovernet", "all"])
def test_other_sets_of_classes_have_names(class_set, tiles, tmp_path):
    every = {}
    for name, (pixels, nuclei, values) in tiles.items():
        kinds = np.arange(len(nuclei)) % 7 + 1
        changed = values | {"inst_type": kinds[:, None].astype(np.float64)}
        every[name] = pixels, nuclei.assign(kind=kinds), changed
    tiles = every
    path = write_consep(tmp_path / "consep_dataset.zip", tiles)
    table = import_consep([path], tmp_path / "raw", seed=0, class_set=class_set)
    classes, labels = CLASS_SETS[class_set]
    kinds = pd.concat(nuclei.assign(tile=name) for name, (_, nuclei, _) in tiles.items())
    merged = table.merge(kinds, on=["tile", "y", "x"])
    assert len(merged) == len(table) and merged.name.tolist() == [classes[labels[kind]] for kind in merged.kind]
    assert set(pd.read_csv(tmp_path / "raw/train.csv").Label) <= set(classes)


def test_the_official_split_keeps_the_authors_tiles_apart(tiles, tmp_path):
    first, second = tiles.values()
    path = write_consep(tmp_path / "consep_dataset.zip", {"train_1": first, "test_1": second})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "official.zip", "w") as official:
        for name in archive.namelist():
            moved = name.replace("Train", "Test") if "test_1" in name else name
            official.writestr(moved, archive.read(name))
    table = import_consep([tmp_path / "official.zip"], tmp_path / "raw", seed=0, official_split=True)
    assert set(table[table.role == "train"].tile) == {"train_1"}
    assert set(table[table.role == "test"].tile) == {"test_1"}
