import errno
import json
import os

import numpy as np
import pandas as pd
import pytest

from nuclei.files import BoundedFile, atomic_directory, atomic_write, require_file, write_csv, write_json


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "crops.npy"
    with atomic_write(path) as temporary:
        np.save(temporary, np.arange(3))  # NumPy would add a suffix if it were not there
        assert not path.exists()
    assert np.array_equal(np.load(path), [0, 1, 2])
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "old").touch()
    with atomic_directory(folder, replace=True) as temporary:
        (temporary / "new").touch()
        assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o055 == 0o055  # others may look into it


def test_a_failure_keeps_the_old_folder_and_leaves_nothing_beside_it(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_directory(folder, replace=True) as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("replace", [atomic_write, atomic_directory])
def test_an_error_of_the_disk_names_the_file_that_the_user_knows(replace, tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, replace(tmp_path / "new") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary / "part"))
    assert caught.value.filename == str(tmp_path / "new")
    with pytest.raises(OSError, match="No space left") as caught, replace(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as writing to an open file does
    assert caught.value.filename == str(tmp_path / "new")
    with pytest.raises(OSError, match="old") as caught, replace(tmp_path / "new"):
        (tmp_path / "old").read_text()
    assert caught.value.filename == str(tmp_path / "old")


def test_a_file_is_read_in_pieces_of_a_size(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    with BoundedFile(tmp_path / "file", 50) as file:
        assert file.read(50) == bytes(50)
        with pytest.raises(OSError, match="too many members"):
            file.read(51)
        assert file.read() == bytes(50)


def test_only_plain_files_will_do(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    require_file(tmp_path / "file")
    require_file(tmp_path / "link")
    for name, error in {"": IsADirectoryError, "missing": FileNotFoundError, "pipe": OSError}.items():
        with pytest.raises(error):
            require_file(tmp_path / name)


def test_json_keeps_its_order_and_refuses_nan(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"b": 1, "a": 0.5})
    assert path.read_text() == '{\n  "b": 1,\n  "a": 0.5\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text()) == {"b": 1, "a": 0.5}
    write_json(path, {"a": [1 / 3, {"b": 123456789.0}], "c": (2 / 3e9, 10**9, None, "1.23456789")})
    assert json.loads(path.read_text()) == {
        "a": [0.333333, {"b": 123457000.0}],
        "c": [6.66667e-10, 10**9, None, "1.23456789"],
    }
    assert list(tmp_path.iterdir()) == [path]


def test_csv_is_the_same_bytes_on_every_machine(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, pd.DataFrame({"Name": ["a,b", "c"], "Loss": [1 / 3, 2.0], "Crops": [1, 123456789]}))
    assert path.read_bytes() == b'Name,Loss,Crops\n"a,b",0.333333,1\nc,2,123456789\n'
