import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from nuclei.tensors import LARGEST_HEADER, load_plain, open_tensors, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3), "empty": torch.zeros(0)}


def same(some: dict, others: dict) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def test_tensors_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    write_tensors(path, TENSORS, {"say": "so"})
    with open_tensors(path) as file:
        assert file.metadata() == {"say": "so"}
        assert same({name: file.get_tensor(name) for name in file.keys()}, TENSORS)  # noqa: SIM118 (not a dict)


def test_other_programs_read_what_is_written(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    assert same(load_file(tmp_path / "a.safetensors"), TENSORS)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert np.array_equal(file.get_tensor("b"), TENSORS["b"].numpy())


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_tensors(tmp_path / name, TENSORS, {"say": "so"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_header_too_long_is_not_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes((LARGEST_HEADER + 1).to_bytes(8, "little") + b"{}")
    with pytest.raises(SafetensorError, match="reasonable"), open_tensors(tmp_path / "a.safetensors"):
        pass


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 2020"])
def test_plain_content_of_torchs_format_is_read(new, tmp_path):
    content = {"tensors": TENSORS, "epoch": 3, "names": ["a", "b"], "score": 0.5}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    loaded = load_plain(tmp_path / "a.pt")
    assert same(loaded.pop("tensors"), TENSORS)
    assert loaded == {key: value for key, value in content.items() if key != "tensors"}
