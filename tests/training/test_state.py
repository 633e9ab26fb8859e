import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nuclei
from nuclei.training.state import fingerprint, load_state, save_state

ARRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def test_a_state_comes_back_as_it_was(tmp_path):
    path = tmp_path / "new" / "state.safetensors"
    weights = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = {
        "network": {"weight": weights, "seen": torch.tensor(7)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "average": weights.double()}}, "groups": [{"lr": 0.1}]},
        "epochs": [{"loss": float("inf"), "name": None}, {}],
    }
    save_state(path, "key", state)
    assert list(path.parent.iterdir()) == [path]
    again = load_state(path, "key")
    assert again["epochs"] == state["epochs"] and again["optimizer"]["groups"] == state["optimizer"]["groups"]
    tensors = [[some["network"]["weight"], some["network"]["seen"], *some["optimizer"]["state"][0].values()]
               for some in (state, again)]  # fmt: skip
    for before, after in zip(*tensors, strict=True):
        assert torch.equal(before, after)
        assert (before.dtype, before.stride()) == (after.dtype, after.stride())


def test_a_later_state_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "state.safetensors"
    for number in (1, 2):
        save_state(path, "key", {"epoch": number, "weights": torch.full((3,), number)})
        kept = load_state(path, "key")
    assert kept["epoch"] == 2 and kept["weights"].tolist() == [2, 2, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"half of a file", None])
def test_a_state_that_cannot_be_read_is_none(tmp_path, content):
    path = tmp_path / "state.safetensors"
    if content is None:
        save_state(path, "key", {"weights": torch.zeros(1000)})
        content = path.read_bytes()[:-1]
    path.write_bytes(content)
    assert load_state(path, "key") is None
    assert load_state(tmp_path / "nothing.safetensors", "key") is None


def test_the_state_of_something_else_is_none(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, "key", {"epoch": 1})
    assert load_state(path, "another key") is None
    assert load_state(path, "key") == {"epoch": 1}


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


def test_changed_code_shows_in_the_fingerprint(tmp_path, monkeypatch):
    copy = tmp_path / "nuclei"
    shutil.copytree(Path(nuclei.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    unchanged = fingerprint([])
    monkeypatch.setattr(nuclei, "__file__", str(copy / "__init__.py"))
    assert fingerprint([]) == unchanged
    with (copy / "models" / "networks.py").open("a") as file:
        file.write("# changed\n")
    assert fingerprint([]) != unchanged
