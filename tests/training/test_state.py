import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nuclei
from nuclei.training.state import CODE, fingerprint, pack, read_state, unpack, write_state

ARRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def test_a_state_comes_back_as_it_was():
    weights = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = {
        "network": {"weight": weights, "seen": torch.tensor(7)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "average": weights.double()}}, "groups": [{"lr": 0.1}]},
        "epochs": [{"loss": float("inf"), "name": None}, {}],
    }
    again = unpack(pack("key", state), "key")
    assert again["epochs"] == state["epochs"] and again["optimizer"]["groups"] == state["optimizer"]["groups"]
    tensors = [
        [each["network"]["weight"], each["network"]["seen"], *each["optimizer"]["state"][0].values()]
        for each in (state, again)
    ]
    for before, after in zip(*tensors, strict=True):
        assert torch.equal(before, after)
        assert (before.dtype, before.stride()) == (after.dtype, after.stride())


def test_the_same_state_is_the_same_bytes():
    state = {"weights": torch.rand(3), "epochs": [{"loss": 0.1}]}
    assert pack("key", state) == pack("key", state)


def test_a_later_state_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "new" / "state.safetensors"
    for number in (1, 2):
        write_state(path, pack("key", {"epoch": number, "weights": torch.full((3,), number)}))
        assert list(path.parent.iterdir()) == [path]
    saved = unpack(read_state(path), "key")
    assert saved["epoch"] == 2 and saved["weights"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"half of a file",
        bytes(8),
        (2**62).to_bytes(8, "little") + b"{}",
        pack("key", {"weights": torch.zeros(1000)})[:-1],
        pack("key", {"weights": torch.zeros(1000)})[:100],
        (2).to_bytes(8, "little") + b"[]",
        (15).to_bytes(8, "little") + b'{"__metadata__"',
    ],
    ids=["empty", "text", "zeros", "endless", "last byte", "short", "a list", "half of JSON"],
)
def test_a_state_that_cannot_be_read_is_none(data):
    assert unpack(data, "key") is None


def test_where_there_is_no_file_there_are_no_bytes(tmp_path):
    assert read_state(tmp_path / "nothing.safetensors") == read_state(tmp_path) == b""


def test_the_state_of_something_else_is_none():
    data = pack("key", {"epoch": 1})
    assert unpack(data, "another key") is None
    assert unpack(data, "key") == {"epoch": 1}


@pytest.mark.parametrize(
    ("arrays", "settings"),
    [
        ([ARRAY + 1], ["lr 0.1"]),
        ([ARRAY.reshape(3, 2)], ["lr 0.1"]),
        ([ARRAY.astype(np.int64)], ["lr 0.1"]),
        ([ARRAY, ARRAY], ["lr 0.1"]),
        ([ARRAY], ["lr 0.2"]),
        ([ARRAY], []),
    ],
    ids=["values", "shape", "type", "one more array", "setting", "no setting"],
)
def test_whatever_differs_shows_in_the_fingerprint(arrays, settings):
    assert fingerprint([ARRAY.copy()], "lr 0.1") == fingerprint([ARRAY], "lr 0.1")
    assert fingerprint([np.asfortranarray(ARRAY)], "lr 0.1") == fingerprint([ARRAY], "lr 0.1")
    assert fingerprint(arrays, *settings) != fingerprint([ARRAY], "lr 0.1")


def test_the_number_of_threads_shows_in_the_fingerprint():
    threads = torch.get_num_threads()
    before = fingerprint([])
    torch.set_num_threads(threads + 1)
    try:
        assert fingerprint([]) != before
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose code is the one that shows in the fingerprint."""
    copy = tmp_path / "nuclei"
    shutil.copytree(Path(nuclei.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    unchanged = fingerprint([])
    monkeypatch.setattr(nuclei, "__file__", str(copy / "__init__.py"))
    assert fingerprint([]) == unchanged  # where the package lies shows in nothing
    return copy


@pytest.mark.parametrize(
    "name", ["models/networks.py", "models/transforms.py", "training/loop.py", "training/train.py", *CODE[2:]]
)
def test_code_that_a_training_comes_from_shows_in_the_fingerprint(name, package):
    before = fingerprint([])
    with (package / name).open("a") as file:
        file.write("# changed\n")
    assert fingerprint([]) != before


@pytest.mark.parametrize("name", ["models/another.py", "training/another.py"])
def test_a_new_file_beside_it_shows_too(name, package):
    before = fingerprint([])
    (package / name).write_text("# new\n")
    assert fingerprint([]) != before


@pytest.mark.parametrize(
    "name",
    ["errors.py", "params.py", "progress.py", "cli.py", "report/page.py", "evaluation/metrics.py", "data/unpack.py"],
)
def test_a_reworded_message_or_report_does_not_void_what_an_interrupted_run_has_done(name, package):
    before = fingerprint([])
    with (package / name).open("a") as file:
        file.write("# changed\n")
    assert fingerprint([]) == before
