import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_the_benchmark_prints_a_table_of_the_question_that_was_asked(tmp_path: Path) -> None:
    command = "-m", "benchmarks", "--quick", "--train", "20", "--test", "4", "--out", str(tmp_path), "decoding"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in table] == ["", "zips to arrays"]
    header, decoded = ([cell.strip() for cell in row] for row in table)
    row = dict(zip(header, decoded, strict=True))
    assert row["against"] == "the seed's way"
    assert row["ratio"].strip("*x") != "" and float(row["ratio"].strip("*x")) > 0
    assert row["share of the limit"].endswith("% of decoding alone")
    assert not list(tmp_path.iterdir())  # results are written when every question was asked
