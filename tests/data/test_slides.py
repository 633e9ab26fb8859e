"""OpenSlide may be aborted by a damaged slide, or never answer: the program says so in one line and goes on."""

import pytest

from nuclei.data import slides
from nuclei.data.slides import open_slide, slide_resolution
from nuclei.errors import InputError

ANSWER = """
import json, os, sys
facts = {"vendor": "aperio", "levels": [[10, 10]], "downsamples": [1.0], "properties": PROPERTIES, "bytes": 0}
END_AT_START
print(json.dumps(facts), flush=True)
sys.stdin.readline()
END_AT_READ
"""


def serve(path, at_start="", at_read="", properties="{}"):
    path.write_text(
        ANSWER.replace("END_AT_START", at_start).replace("END_AT_READ", at_read).replace("PROPERTIES", properties)
    )
    return path


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os.abort()", "OpenSlide ended with signal 6"),
        ("os.kill(os.getpid(), 11)", "OpenSlide ended with signal 11"),
        ("sys.exit(3)", "OpenSlide ended with exit code 3"),
        ("print('Unsupported')", "OpenSlide ended with signal 9"),
        ("import time; time.sleep(60)", "OpenSlide ended with signal 9"),
    ],
)
def test_a_reader_that_dies_or_hangs_is_a_damaged_slide(end, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "SLOWEST", 2.0)
    monkeypatch.setattr(slides, "SERVER", serve(tmp_path / "server.py", at_start=end))
    with pytest.raises(InputError) as caught, open_slide(tmp_path / "a.svs"):
        pass
    assert str(caught.value) == f"{tmp_path}/a.svs: a damaged slide ({reason}): copy it again"
    monkeypatch.setattr(slides, "SERVER", serve(tmp_path / "server.py", at_read=end))
    with open_slide(tmp_path / "a.svs") as slide, pytest.raises(InputError) as caught:
        slide.read((0, 0), 0, (5, 5))
    assert str(caught.value) == f"{tmp_path}/a.svs: a damaged slide ({reason}): copy it again"


def test_files_beside_the_reader_are_not_taken_for_packages(tmp_path, monkeypatch):
    """The reader runs as a script of nuclei/data: what OpenSlide imports must not be found there (`images`, `png`)."""
    (tmp_path / "tables.py").write_text("raise SystemExit(9)")
    server = serve(tmp_path / "server.py", at_start="try: import tables\nexcept ImportError: pass")
    monkeypatch.setattr(slides, "SERVER", server)
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.levels == [(10, 10)]


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}, 0.5, "the slide"),
        ({"openslide.objective-power": "20"}, 0.5, "an objective of 20x"),
        ({"openslide.mpp-x": "junk", "openslide.objective-power": "40"}, 0.25, "an objective of 40x"),
        ({"openslide.mpp-x": "1000", "openslide.mpp-y": "1000"}, None, "not told"),
        ({}, None, "not told"),
    ],
)
def test_the_resolution_of_a_slide_is_what_openslide_knows(properties, mpp, source, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "SERVER", serve(tmp_path / "server.py", properties=repr(properties)))
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide_resolution(slide) == (mpp, source)
