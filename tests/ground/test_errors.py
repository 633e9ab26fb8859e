import errno
import os
from pathlib import Path

import pytest

from nuclei.errors import InputError, run


def test_bad_input_ends_in_one_line_and_exit_code_1(capsys):
    def main():
        raise InputError("train.csv: row 3: label 7 is not one of 0 to 3")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == "error: train.csv: row 3: label 7 is not one of 0 to 3\n"
    assert printed.out == ""


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM"])
def test_what_a_disk_does_ends_in_one_line(name, capsys):
    def main():
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "data/crops")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: data/crops: {os.strerror(getattr(errno, name))}: ") and line.count("\n") == 1


def test_other_troubles_of_the_system_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        run(lambda: Path("nowhere").read_text())


def test_nothing_that_a_message_holds_breaks_the_line_or_the_terminal(capsys):
    def main():
        raise InputError("a\nb\x1b[2J\u202ec é")

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == "error: a\\nb\\x1b[2J\\u202ec é\n"


def test_good_input_ends_quietly(capsys):
    done = []
    run(lambda: done.append(True))
    assert done == [True]
    assert capsys.readouterr() == ("", "")
