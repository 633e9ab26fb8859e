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


def test_good_input_ends_quietly(capsys):
    done = []
    run(lambda: done.append(True))
    assert done == [True]
    assert capsys.readouterr() == ("", "")
