import sys

import pytest

from nuclei import progress
from nuclei.progress import Progress


@pytest.fixture
def eager(monkeypatch):
    """Show every step at once."""
    monkeypatch.setattr(progress, "EVERY", 0)


def test_where_there_is_no_terminal_each_state_is_a_line_of_plain_text(eager, capsys):
    with Progress(40, "cnn", "step") as bar:
        bar.update(10, "fold 0, epoch 1: train loss 1.2000")
        bar.update(30, "fold 1, epoch 1: train loss 1.1000")
    printed = capsys.readouterr()
    assert printed.out == ""  # results go there
    assert not set(printed.err) & set("\r\x1b")
    lines = printed.err.splitlines()
    assert all(line.startswith("cnn: ") for line in lines)
    (first,) = (line for line in lines if "10/40" in line)
    (second,) = (line for line in lines if "30/40" in line)
    assert "25%" in first and first.endswith("fold 0, epoch 1: train loss 1.2000]")
    assert "75%" in second and second.endswith("fold 1, epoch 1: train loss 1.1000]")


def test_steps_in_quick_succession_are_not_a_line_each(capsys):
    with Progress(1000, "tune", "step") as bar:
        for done in range(1000):
            bar.update(done + 1)
    assert len(capsys.readouterr().err.splitlines()) <= 2  # the first, at 0 %; the next in half a minute


def test_what_a_lost_worker_has_to_do_again_takes_the_bar_back(eager, capsys):
    with Progress(40, "cnn", "step") as bar:
        for done in (20, 10, 40):
            bar.update(done)
            assert bar.bar.n == done
    assert "40/40" in capsys.readouterr().err


def test_on_a_terminal_lines_scroll_by_above_the_bar(eager, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(40, "cnn", "step") as bar:
        bar.update(10, "fold 0, epoch 1: train loss 1.2000")
    printed = capsys.readouterr()
    assert printed.out == "fold 0, epoch 1: train loss 1.2000\n"
    assert "\rcnn:   0%|" in printed.err and "\n" not in printed.err


def test_a_bar_ends_with_the_error_that_ends_its_work(eager, capsys):
    with pytest.raises(ZeroDivisionError), Progress(40, "cnn", "step") as bar:
        _ = 1 / 0
    assert bar.bar.disable  # tqdm's word for closed
