import json

import numpy as np
import pytest

from nuclei.data.geojson import point
from nuclei.data.positions import read_positions
from nuclei.errors import InputError

QUPATH = "Image,Object ID,Class,Centroid X {unit},Centroid Y {unit}\nslide.svs,a,,10.5,20\nslide.svs,b,,30,40.25\n"


@pytest.mark.parametrize(
    ("text", "microns"),
    [
        ("x,y\n10.5,20\n30,40.25\n", False),
        ("\ufeffx,y\r\n10.5,20\r\n30,40.25\r\n", False),
        ("label,Y,x,X2\n1,20,10.5,0\n2,40.25,30,0\n", False),
        ("x;y\n10.5;20\n\n30;40.25", False),
        ("x\ty\n10.5\t20\n30\t40.25\n", False),
        (QUPATH.format(unit="px"), False),
        (QUPATH.format(unit="µm"), True),
        (QUPATH.format(unit="\N{GREEK SMALL LETTER MU}m").replace(",", "\t"), True),
        ('"x","y","note"\n10.5,20,"a, b"\n30,40.25,"c"\n', False),
    ],
)
def test_tables_are_read_however_they_are_written(text, microns, tmp_path):
    (tmp_path / "nuclei.csv").write_text(text, encoding="utf-8", newline="")
    positions = read_positions(tmp_path / "nuclei.csv")
    assert (positions.x.tolist(), positions.y.tolist(), positions.microns) == ([10.5, 30], [20, 40.25], microns)


@pytest.mark.parametrize("name", ["nuclei.geojson", "nuclei.json", "NUCLEI.GEOJSON"])
def test_geojson_is_read(name, tmp_path):
    (tmp_path / name).write_text(json.dumps([point(10.5, 20), point(30, 40.25)]))
    positions = read_positions(tmp_path / name)
    assert (positions.x.tolist(), positions.y.tolist(), positions.microns) == ([10.5, 30], [20, 40.25], False)
    assert positions.x.dtype == positions.y.dtype == np.float64


FOUND = "expected a column x and a column y, in pixels, or QuPath's Centroid X and Centroid Y, found "
NUMBERS = "expected finite numbers for x and y: correct it"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", f"nuclei.csv: {FOUND}''"),
        ("x\n1\n", f"nuclei.csv: {FOUND}'x'"),
        ("x,y,x\n1,2,3\n", f"nuclei.csv: {FOUND}'x,y,x'"),
        ("1,2\n3,4\n", f"nuclei.csv: {FOUND}'1,2'"),
        ("x,y\n", "nuclei.csv: no nucleus in it: expected at least one"),
        ("x,y\n1,2\n3\n", f"nuclei.csv, line 3: '3', {NUMBERS}"),
        ("x,y\n1,2\n\n3,b\n", f"nuclei.csv, line 4: '3,b', {NUMBERS}"),
        ("x,y\nnan,2\n", f"nuclei.csv, line 2: 'nan,2', {NUMBERS}"),
        ("x,y\n1,1e999\n", f"nuclei.csv, line 2: '1,1e999', {NUMBERS}"),
        ("x,y\n,\n", f"nuclei.csv, line 2: ',', {NUMBERS}"),
        ("x,y\n1;5,2\n", f"nuclei.csv, line 2: '1;5,2', {NUMBERS}"),
    ],
)
def test_bad_tables_end_with_one_line(text, complaint, tmp_path):
    (tmp_path / "nuclei.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_positions(tmp_path / "nuclei.csv")
    assert str(caught.value).startswith(f"{tmp_path}/{complaint}")
    assert "\n" not in str(caught.value)


def test_what_is_no_table_ends_with_one_line(tmp_path):
    (tmp_path / "nuclei.csv").write_bytes(b"x,y\n\xff\xfe,1\n")
    with pytest.raises(InputError, match=r"nuclei\.csv: not a table in UTF-8"):
        read_positions(tmp_path / "nuclei.csv")
    with pytest.raises(InputError, match=r"missing\.csv: cannot be read \(No such file or directory\)"):
        read_positions(tmp_path / "missing.csv")
    (tmp_path / "none.geojson").write_text("{}")
    with pytest.raises(InputError, match=r"none\.geojson: no nucleus in it"):
        read_positions(tmp_path / "none.geojson")


def test_quotes_that_a_tab_follows_are_told_without_the_tab(tmp_path):
    """Found by half an hour of fuzzing: the reason, in the parser's words, had the separator in it."""
    (tmp_path / "nuclei.tsv").write_text('""x\ty\n1\t2\n')
    with pytest.raises(InputError, match="not valid CSV") as caught:
        read_positions(tmp_path / "nuclei.tsv")
    assert str(caught.value).isprintable()
