import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.markdown import markdown_table
from benchmarks.speed.table import COMPARISONS
from nuclei.data.synthetic.sample import write_sample
from nuclei.params import Sample
from tools.clone import ROOT


def test_the_benchmark_prints_a_table_of_what_was_asked_for(tmp_path: Path) -> None:
    command = "-m", "benchmarks", "--quick", "--train", "20", "--test", "4", "--out", str(tmp_path), "decoding"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in table] == ["", "zips to arrays"]
    header, decoded = ([cell.strip() for cell in row] for row in table)
    row = dict(zip(header, decoded, strict=True))
    assert row["against"] == "the baseline"
    assert row["ratio"].strip("*x") != "" and float(row["ratio"].strip("*x")) > 0
    assert row["share of the limit"].endswith("% of decoding alone")
    assert not list(tmp_path.iterdir())  # results are written when everything was measured


def test_each_change_is_compared_with_the_parameters_as_they_are(tmp_path: Path) -> None:
    write_sample(tmp_path, Sample(seed=0, train=100, test=4, patients=8))
    changes = "the middle 60 x 60 pixels only", "SimCLR pretraining"
    options = "--raw", str(tmp_path), "--epochs", "1", "--threads", "1"
    command = "-m", "benchmarks.studies.generalisation", *options, *changes
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:2] == "| "]
    assert [row[0] for row in table] == ["", "as in params.yaml", *changes]
    assert table[1][3:] == ["", ""]
    for row in table[2:]:
        before, after, difference = (float(cell.split()[0]) for cell in (table[1][1], row[1], row[3]))
        assert abs(after - before - difference) < 0.0016  # each is rounded


def test_all_that_is_compared_can_be_run() -> None:
    for comparison in COMPARISONS:
        for module, name in comparison.implementations():
            assert name in import_module(f"benchmarks.speed.{module}").IMPLEMENTATIONS


def test_a_table_has_its_numbers_on_the_right_and_a_cell_under_every_title() -> None:
    table = markdown_table(["", "accuracy"], [["cnn", "0.9"]])
    assert table == "|  | accuracy |\n|---|--:|\n| cnn | 0.9 |"
    with pytest.raises(ValueError, match="1 cells under 2 titles"):
        markdown_table(["", "accuracy"], [["cnn"]])
