import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nuclei.npz import write_npz

ARRAYS = {"rows": np.arange(3), "names": np.array(["a", "bc"]), "maps": np.ones((2, 4, 4), np.float16)}


def test_numpy_reads_what_was_written(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", ARRAYS)
    with np.load(tmp_path / "a.npz") as read:
        assert list(read) == list(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(read[name], values)
            assert read[name].dtype == values.dtype


def test_no_header_tells_of_time_system_or_version(tmp_path: Path) -> None:
    """`numpy.savez` asks for zip64, which Python 3.11.2 and 3.11.7 write down in different ways."""
    write_npz(tmp_path / "a.npz", ARRAYS)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        for member in archive.infolist():
            assert member.date_time == (1980, 1, 1, 0, 0, 0) and member.create_system == 3
            assert member.extract_version == 20 and not member.extra


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(tmp_path / "a.npz", {"a": np.array([io])})
