"""Zips, crops, tables, params.yaml and checkpoints damaged at random: read right or refused in one line, never a crash.

In the suite the examples are few and always the same. `FUZZ_EXAMPLES=20000 uv run pytest tests/hostile/test_fuzz.py`
draws others, and more; what it found stands as cases in tests/hostile/.
"""

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hostile.models import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import EXAMPLE_CSV, GROUPS, MEMBERS, PIXELS, PNGS, TRAIN, TRAIN_CSV, chunk, write_good, write_zip

from nuclei.data.unpack import unpack
from nuclei.errors import InputError
from nuclei.models.checkpoint import load_model, save_model
from nuclei.models.pretrained import read_weights
from nuclei.params import Params, load_params
from tools.clone import ROOT

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


with io.BytesIO() as buffer:
    write_zip(buffer, MEMBERS["train"])
    WHOLE = buffer.getvalue()


def fuzz(share: float = 1.0) -> Callable:
    return settings(
        max_examples=int(share * int(EXAMPLES or 100)),
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# Changes of bytes: (how, where as a share of the whole, what).
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "remove", "repeat", "end here"]),
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([bytes(4), b"\xff" * 4, b"PK\1\2", b"PK\5\6", b"PK\3\4", b"\0\0\0\x80", b"IDAT", b"tRNS"]),
        ),
    ),
    min_size=1,
    max_size=4,
)


def damage(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, share, some in changes:
        at = int(share * len(content))
        if how == "overwrite":
            content = content[:at] + some + content[at + len(some) :]
        elif how == "insert":
            content = content[:at] + some + content[at:]
        elif how == "remove":
            content = content[:at] + content[at + len(some) :]
        elif how == "repeat":
            content = content[: at + 50 * len(some)] + content[at:]
        else:
            content = content[:at]
    return content


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Let through what is read; check the line about what is not."""
    try:
        yield
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path)) and message.isprintable() and len(message) < 2000


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_good(tmp_path / "raw")
    return tmp_path / "raw"


def unpack_or_refuse(raw: Path) -> None:
    out = raw.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    with refusing(raw):
        unpack(raw, out, 3)
    assert sorted(path.name for path in raw.parent.iterdir() if path != raw) in ([], ["out"])


@fuzz()
@given(changes=CHANGES)
def test_a_damaged_zip(raw, changes):
    """Half of the damage goes to the list of members, which is but a thousandth of the whole."""
    start = WHOLE.index(b"PK\1\2") if len(changes) % 2 else 0
    (raw / "train.zip").write_bytes(WHOLE[:start] + damage(WHOLE[start:], changes))
    unpack_or_refuse(raw)
    if (raw.parent / "out").exists():  # the check sum of each member held
        assert np.array_equal(np.load(raw.parent / "out/train.npy"), [PIXELS[number] for number in TRAIN])


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@fuzz()
@given(changes=CHANGES, kind=st.sampled_from([b"", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"iCCP", b"eXIf", b"zTXt"]))
def test_a_damaged_crop(raw, changes, kind):
    """Damage the header, or put in a chunk with a right check sum and anything in it."""
    start, rest = PNGS[3][:33], PNGS[3][33:]
    start = start + chunk(kind, damage(bytes(26), changes)) if kind else start[:8] + damage(start[8:], changes)
    write_zip(raw / "train.zip", MEMBERS["train"] | {"train/3.png": start + rest}, zipfile.ZIP_STORED)
    unpack_or_refuse(raw)


CELLS = st.one_of(
    st.sampled_from(["Filename", "Label", "Group", "3.png", "5.png", "0", "1", "", '"', "\0", "\r", "\ufeff", "a,b"]),
    st.text(max_size=6),
)
ROWS = st.lists(st.lists(CELLS, max_size=4), max_size=12)


TABLES = {"train.csv": TRAIN_CSV, "example.csv": EXAMPLE_CSV, "groups.csv": "Filename,Group\n" + GROUPS}


@fuzz()
@given(changes=CHANGES, rows=ROWS, name=st.sampled_from(sorted(TABLES)), anew=st.booleans())
def test_a_damaged_table(raw, changes, rows, name, anew):
    for good, content in TABLES.items():
        (raw / good).write_text(content)
    other = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    (raw / name).write_bytes(other if anew else damage(TABLES[name].encode(), changes))
    unpack_or_refuse(raw)


GOOD_PARAMS = (ROOT / "params.yaml").read_text()
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from(["&a", "*a", "<<", "!!int"]),
)
VALUES = st.recursive(SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(SCALARS, some, max_size=3))


@fuzz(share=0.5)
@given(line=st.integers(0, GOOD_PARAMS.count("\n") - 1), value=VALUES | st.text(max_size=20))
def test_damaged_parameters(tmp_path, line, value):
    """Give a line another value, or text that may be no YAML at all."""
    path = tmp_path / "params.yaml"
    lines = GOOD_PARAMS.splitlines()
    key = lines[line].split(":")[0]
    lines[line] = f"{key}: {value}"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    with refusing(path):
        assert isinstance(load_params(path), Params)


@fuzz(share=0.5)
@given(changes=CHANGES)
def test_a_damaged_checkpoint(tmp_path, changes):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_model())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(damage(content[:header], changes) + content[header:])
    with refusing(path):
        load_model(path)


@fuzz(share=0.5)
@given(content=st.binary(max_size=60), start=st.sampled_from([b"\x80\2", b"\x80\4", b"PK\3\4", b"\x80\2}q\0", b""]))
def test_weights_at_random(tmp_path, content, start):
    path = tmp_path / "weights.pt"
    path.write_bytes(start + content)
    with refusing(path):
        read_weights(path)
