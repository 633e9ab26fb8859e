from pathlib import Path

import pytest
from raw_files import write_good


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The four files, good ones."""
    folder = tmp_path / "data" / "raw"
    write_good(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What an earlier run left."""
    folder = tmp_path / "data" / "out"
    folder.mkdir(parents=True)
    (folder / "train.npy").write_bytes(b"of an earlier run")
    return folder
