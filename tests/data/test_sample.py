import io
import itertools
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold, cross_val_score

from nuclei.data.synthetic.sample import CROP, draw_sample, write_sample
from nuclei.params import Sample
from nuclei.splitting.near_duplicates import near_duplicates
from nuclei.splitting.overlap import overlapping_pairs, save_pairs

CONFIG = Sample(seed=0, train=300, test=100, patients=4)
SMALLEST = Sample(seed=0, train=20, test=4, patients=1)
FILES = ["example.csv", "test.zip", "train.csv", "train.zip"]


@pytest.fixture(scope="module")
def drawn():
    """A sample in memory, where it is known which tile a crop comes from."""
    return draw_sample(CONFIG)


def write_drawn(out: Path, config: Sample, drawn) -> None:
    """Write the sample that was drawn before: drawing takes seconds, and draws the same again, as a test shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nuclei.data.synthetic.sample.draw_sample", lambda config: drawn)
        write_sample(out, config)


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    """Its four files on disk."""
    out = tmp_path_factory.mktemp("data") / "sample"
    write_drawn(out, CONFIG, drawn)
    return out


@pytest.fixture(scope="module")
def drawn_smallest():
    """The smallest sample that the settings allow, in memory."""
    return draw_sample(SMALLEST)


@pytest.fixture(scope="module")
def smallest(drawn_smallest, tmp_path_factory):
    """Its four files on disk."""
    out = tmp_path_factory.mktemp("data") / "smallest"
    write_drawn(out, SMALLEST, drawn_smallest)
    return out


@pytest.fixture(scope="module")
def crops(folder, drawn):
    """Crops as the files hold them, uint8, (N, CROP, CROP, 3), in the order of the table."""
    _, table = drawn
    members = {role: read_zip(folder / f"{role}.zip") for role in ("train", "test")}
    return np.stack(
        [members[role][f"{role}/{number}.png"] for role, number in zip(table.role, table.number, strict=True)]
    )


def read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def neighbours(table: pd.DataFrame):
    """Pairs of crops (rows of the table) that share at least 40 x 40 pixels, with the offset of the second."""
    for _, rows in table.groupby("tile"):
        for a, b in itertools.combinations(rows.itertuples(), 2):
            if max(abs(b.y - a.y), abs(b.x - a.x)) <= 60:
                yield a.Index, b.Index, b.y - a.y, b.x - a.x


def test_files_and_tables_are_laid_out_as_the_competitions(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    train, example = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "example.csv")
    assert list(train.columns) == list(example.columns) == ["Filename", "Label"]
    assert list(train.Filename) == [f"{number}.png" for number in range(1, 301)]
    assert list(example.Filename) == [f"{number}.png" for number in range(10001, 10101)]
    assert set(train.Label) == {0, 1, 2, 3}
    assert set(example.Label) == {0}
    for role, table in (("train", train), ("test", example)):
        assert list(read_zip(folder / f"{role}.zip")) == [f"{role}/{name}" for name in table.Filename]


def test_crops_are_rgb_pngs_of_100_by_100_pixels(folder):
    for role in ("train", "test"):
        with zipfile.ZipFile(folder / f"{role}.zip") as archive:
            for name in archive.namelist():
                image = Image.open(io.BytesIO(archive.read(name)))
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (100, 100))


def compare(folder: Path, out: Path) -> None:
    """Write the pairs of the sample's crops that share pixels, and those that look alike, into the folder `out`."""
    crops = np.stack([*read_zip(folder / "train.zip").values(), *read_zip(folder / "test.zip").values()])
    out.mkdir()
    save_pairs(out / "overlaps.npz", overlapping_pairs(crops))
    alike = near_duplicates(crops, distance=20)
    np.savez(out / "alike.npz", first=alike.first, second=alike.second, distance=alike.distance)


def test_an_older_processor_draws_the_same_bytes_and_finds_the_same_pairs(smallest, tmp_path):
    older = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__),
        "OPENBLAS_CORETYPE": {"x86_64": "Prescott", "aarch64": "ARMV8"}.get(platform.machine(), ""),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = """if True:
        from pathlib import Path
        from test_sample import SMALLEST, compare, write_sample
        write_sample(Path("sample"), SMALLEST)
        compare(Path("sample"), Path("pairs"))
    """
    subprocess.run([sys.executable, "-c", code], env=os.environ | older, cwd=tmp_path, check=True)
    compare(smallest, tmp_path / "here")
    assert contents(tmp_path / "sample") == contents(smallest)
    assert contents(tmp_path / "pairs") == contents(tmp_path / "here")


def test_another_seed_gives_other_crops(smallest, tmp_path):
    write_sample(tmp_path / "other", SMALLEST.model_copy(update={"seed": 1}))
    once, other = (read_zip(folder / "train.zip") for folder in (smallest, tmp_path / "other"))
    assert once.keys() == other.keys()
    assert not any((once[name] == other[name]).all() for name in once)


def test_smallest_sample_has_every_class(smallest, drawn_smallest):
    assert pd.read_csv(smallest / "train.csv").Label.value_counts().to_dict() == dict.fromkeys(range(4), 5)
    assert len(read_zip(smallest / "test.zip")) == 4
    _, table = drawn_smallest
    assert sorted(table.label[table.role == "test"]) == [0, 1, 2, 3]


def test_class_counts_are_those_asked_for(drawn):
    _, table = drawn
    counts = table.groupby(["role", "label"]).size().unstack()
    assert counts.loc["train"].tolist() == [55, 106, 47, 92]
    assert counts.loc["test"].tolist() == [19, 34, 17, 30]


def test_labels_on_disk_are_those_drawn(folder, drawn):
    _, table = drawn
    assert pd.read_csv(folder / "train.csv").Label.tolist() == table.label[table.role == "train"].tolist()


def test_every_crop_is_cut_around_its_own_nucleus(drawn, crops):
    tiles, table = drawn
    assert not table.duplicated(["tile", "y", "x"]).any()
    for crop, tile, y, x in zip(crops, table.tile, table.y, table.x, strict=True):
        assert (crop == tiles[tile][y - 50 : y + 50, x - 50 : x + 50]).all()
    middle = crops[:, 46:54, 46:54, 0].mean(axis=(1, 2))  # red: what haematoxylin swallows and eosin lets pass
    assert (middle < np.median(crops[..., 0], axis=(1, 2))).mean() > 0.9


def test_crops_of_a_tile_share_their_pixels(drawn, crops):
    _, table = drawn
    pairs = list(neighbours(table))
    assert len(pairs) > 100
    for first, second, dy, dx in pairs:
        one = crops[first][max(dy, 0) : CROP + min(dy, 0), max(dx, 0) : CROP + min(dx, 0)]
        other = crops[second][max(-dy, 0) : CROP - max(dy, 0), max(-dx, 0) : CROP - max(dx, 0)]
        assert one.shape[0] >= 40 and one.shape[1] >= 40
        assert (one == other).all()


def test_most_test_crops_share_pixels_with_a_training_crop(drawn):
    _, table = drawn
    touching = {
        index
        for first, second, *_ in neighbours(table)
        for index in (first, second)
        if table.role[first] != table.role[second]
    }
    test = table.index[table.role == "test"]
    assert np.isin(test, list(touching)).mean() > 0.7


def test_colour_alone_does_not_tell_the_classes(drawn, crops):
    _, table = drawn
    histograms = [[np.histogram(crop[..., c], 16, (0, 256))[0] for c in range(3)] for crop in crops]
    features = np.array(histograms).reshape(len(crops), -1)
    scores = cross_val_score(
        RandomForestClassifier(100, random_state=0), features, table.label, groups=table.tile, cv=GroupKFold(4)
    )
    assert scores.mean() < 0.75


def test_a_tile_holds_normal_or_cancer_epithelium_never_both(drawn):
    _, table = drawn
    epithelium = table[table.label < 2].groupby("tile").label
    assert (epithelium.nunique() == 1).all()
    assert set(epithelium.first()) == {0, 1}


def test_every_patient_has_normal_and_cancer_tissue(drawn):
    _, table = drawn
    assert set(table.patient) == {0, 1, 2, 3}
    assert (table[table.label < 2].groupby("patient").label.nunique() == 2).all()


def test_tiles_of_a_patient_look_more_alike_than_those_of_others(drawn):
    tiles, _ = drawn
    hues = []
    for tile in tiles:
        dark = tile[tile[..., 0] < np.percentile(tile[..., 0], 10)]
        density = -np.log(dark.mean(axis=0) / 255)
        hues.append(density / density.sum())
    hues = np.array(hues)[: len(tiles) // 4 * 4].reshape(-1, 4, 3)  # tiles come patient after patient
    assert hues.mean(axis=0).std(axis=0).sum() > hues.std(axis=0).mean(axis=0).sum()


def test_failing_half_way_leaves_the_old_sample_as_it_was(drawn_smallest, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "sample"
    out.mkdir()
    (out / "train.csv").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the disk is full after a few crops
    try:
        with pytest.raises(OSError, match="too large"):
            write_drawn(out, SMALLEST, drawn_smallest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(out) == {"train.csv": b"old"}
    assert list(tmp_path.iterdir()) == [out]
