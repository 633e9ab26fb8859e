"""Archives of public sets that are no files, or promise more than they hold: one line, soon, and nothing written."""

import io
import os
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from consep import draw_tiles, write_consep
from PIL import Image
from scipy.io import savemat
from tissue import some_crops

from nuclei.data.folders import import_folders
from nuclei.data.points import Settings, import_points
from nuclei.data.public.consep import import_consep
from nuclei.data.public.nucls import import_nucls
from nuclei.data.public.pannuke import import_pannuke
from nuclei.errors import InputError
from nuclei.inference.crop_files import open_crop_files

PLACES = {
    "pipe": os.mkfifo,
    "dead link": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("read", [import_consep, import_nucls])
def test_what_is_no_file_is_refused_and_never_waited_for(name, read, tmp_path):
    PLACES[name](tmp_path / "set.zip")
    with pytest.raises(InputError, match=r"set\.zip: cannot be read \(.*\): give the zip as downloaded"):
        read([tmp_path / "set.zip"], tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in PLACES if name != "folder"])
def test_your_own_files_are_not_waited_for_or_left_out_either(name, tmp_path):
    """Of `import pannuke`, `points` (slide, table, GeoJSON), `folders`, and a folder of crops that is predicted."""
    crops = tmp_path / "crops" / "tumour"
    crops.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(some_crops(2)[number]).save(crops / f"{number}.png")
    shutil.copytree(crops, tmp_path / "crops" / "stroma")
    bad = {name: tmp_path / name for name in ("fold_1.zip", "slide.png", "points.csv", "points.geojson")}
    for path in (*bad.values(), crops / "2.png"):
        PLACES[name](path)
    good, out = crops / "0.png", tmp_path / "out"
    calls = [
        lambda: import_pannuke([bad["fold_1.zip"]], out, 0, "Colon"),
        lambda: import_points([bad["slide.png"]], [bad["points.csv"]], out, Settings(100, 0.25, 0.25)),
        lambda: import_points([good], [bad["points.csv"]], out, Settings(100, 0.25, 0.25)),
        lambda: import_points([good], [bad["points.geojson"]], out, Settings(100, 0.25, 0.25)),
        lambda: import_folders(tmp_path / "crops", out, 0.2, 0),
        lambda: open_crop_files(crops).__enter__(),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"(fold_1\.zip|slide\.png|points\.\w+|2\.png): cannot be read \("):
            call()
    assert not out.exists()


def test_a_link_to_an_archive_is_read(tmp_path):
    write_consep(tmp_path / "consep.zip", draw_tiles())
    (tmp_path / "link.zip").symlink_to("consep.zip")
    assert len(import_consep([tmp_path / "link.zip"], tmp_path / "out", 0))


def mat(**values) -> bytes:
    file = io.BytesIO()
    savemat(file, values, do_compression=True)
    return file.getvalue()


def mat_bomb() -> bytes:
    packed = zlib.compress(bytes(2**29), 1)
    return mat(a=np.zeros(1))[:128] + struct.pack("<II", 15, len(packed)) + packed


MATS = {
    "a variable that unpacks to 512 MB": mat_bomb,
    "a long array": lambda: mat(inst_map=np.zeros((5000, 5000), np.uint8)),
    "not a MAT file": lambda: b"hello",
}


@pytest.mark.parametrize("name", MATS)
def test_labels_that_promise_too_much_are_refused(name, tmp_path):
    write_consep(tmp_path / "consep.zip", draw_tiles())
    with zipfile.ZipFile(tmp_path / "consep.zip") as old, zipfile.ZipFile(tmp_path / "set.zip", "w") as new:
        for member in old.namelist():
            new.writestr(member, MATS[name]() if member.endswith(".mat") else old.read(member))
    tracemalloc.start()
    with pytest.raises(InputError, match="expected inst_map, inst_type and inst_centroid"):
        import_consep([tmp_path / "set.zip"], tmp_path / "out", 0)
    assert tracemalloc.get_traced_memory()[1] < 2**29
    tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


@pytest.mark.parametrize(
    ("types", "masks"),
    [
        (header((2**40,), "<U10"), b""),
        (header((1,), "<U1000000000"), b""),
        (header((1,), "|O"), bytes(8)),
        (header((1,), "<U5") + "Colon".encode("utf-32-le"), header((1, 2**20, 2**20, 6), "<f8")),
        (header((1,), "<U5") + "Colon".encode("utf-32-le"), header((1, 0, 256, 6), "<f8")),
        (header((1,), "<U5") + "Colon".encode("utf-32-le"), header((1, 256, 256, 6), "|O")),
        (b"\x93NUMPY\x09\0", b""),
    ],
)
def test_arrays_that_promise_too_much_are_refused(types, masks, tmp_path):
    with zipfile.ZipFile(tmp_path / "fold_1.zip", "w") as archive:
        for name, content in {"types.npy": types, "masks.npy": masks, "images.npy": b""}.items():
            archive.writestr(f"Fold 1/{name}", content)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"fold_1\.zip, member 'Fold 1/(types|masks)\.npy': expected"):
        import_pannuke([tmp_path / "fold_1.zip"], tmp_path / "out", 0, "Colon")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_files_that_macos_adds_are_passed_over(tmp_path):
    write_consep(tmp_path / "consep.zip", draw_tiles())
    with zipfile.ZipFile(tmp_path / "consep.zip", "a") as archive:
        for member in archive.namelist():
            folder, _, name = member.rpartition("/")
            archive.writestr(f"{folder}/._{name}", b"\0\5\x16\7Mac OS X")
            archive.writestr(f"{folder}/__MACOSX/._{name}", b"\0\5\x16\7Mac OS X")
    assert len(import_consep([tmp_path / "consep.zip"], tmp_path / "out", 0))
