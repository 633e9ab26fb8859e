import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_scores import calibrated

from benchmarks.markdown import markdown_table
from benchmarks.speed import suite
from benchmarks.speed.table import COMPARISONS
from benchmarks.studies import combine, detection, generalisation
from nuclei.crops import Places
from nuclei.data.synthetic.sample import write_sample
from nuclei.evaluation.with_neighbours import cross_fit_neighbours
from nuclei.models.neighbours import mean_of_neighbours
from nuclei.models.temperature import softmax
from nuclei.params import Sample
from tools.clone import Clone


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files."""
    folder = tmp_path_factory.mktemp("benchmarks") / "raw"
    write_sample(folder, Sample(seed=0, train=20, test=4, patients=1))
    return folder


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_the_benchmark_prints_a_table_of_what_was_asked_for(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--quick", "--raw", str(raw), "--train", "10", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options, "decoding"])
    suite.main()  # each measurement is a process
    printed = capsys.readouterr().out
    assert "10 training and 4 test crops of raw" in printed
    header, decoded = rows_of(printed)
    row = dict(zip(header, decoded, strict=True))
    assert row[""] == "zips to arrays" and row["against"] == "the baseline"
    assert row["ratio"].strip("*x") != "" and float(row["ratio"].strip("*x")) > 0
    assert row["share of the limit"].endswith("% of decoding alone")
    assert not list(tmp_path.iterdir())  # results are written when everything was measured


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("cnn", ["the middle 60 x 60 pixels only", "SimCLR pretraining", "CutMix", "stains of other groups"]),
        ("lite0", ["half of the layers frozen", "random weights"]),
    ],
)
def test_each_change_is_compared_with_the_parameters_as_they_are(
    network: str, changes: list[str], raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--raw", str(raw), "--network", network, "--epochs", "1", "--device", "cpu"]
    options += ["--threads", str(torch.get_num_threads()), "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["generalisation", *options, *changes])
    generalisation.main()
    table = rows_of(capsys.readouterr().out)
    assert [row[0] for row in table] == ["", "as in params.yaml", *changes]
    assert table[1][3:] == ["", ""]
    for row in table[2:]:
        before, after, difference = (float(cell.split()[0]) for cell in (table[1][1], row[1], row[3]))
        assert abs(after - before - difference) < 0.0016  # each is rounded


def test_detection_is_measured_on_mosaics_of_the_four_files(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "LEAST", 2)
    laid = list(detection.mosaics(raw, tmp_path))
    assert len(laid) > 0
    for canvas, positions in laid:
        assert len(positions) >= 2 and canvas.shape[2] == 3
        assert ((positions >= 50) & (positions <= np.array(canvas.shape[:2]) - 50)).all()  # middles of 100 pixels


def test_views_networks_and_neighbours_are_combined_after_a_run(
    finished: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.path)
    monkeypatch.setattr(sys, "argv", ["combine", "--radii", "50"])
    combine.main()
    _, *rows = rows_of(capsys.readouterr().out)
    names = [
        f"{name}{after}"
        for name in ("cnn", "resnet", "mean of both")
        for after in ("", ", neighbours within 50 microns", ", neighbours within 50 microns, adjusted")
    ]
    assert [row[0] for row in rows] == ["cnn, one view", "resnet, one view", *names]
    for name in ("cnn", "resnet"):
        metrics = json.loads((finished.path / f"reports/evaluate/metrics_{name}.json").read_text())
        row = next(row for row in rows if row[0] == name)
        assert [float(cell.split()[0]) for cell in row[1:4]] == [
            pytest.approx(metrics[metric], abs=0.0005) for metric in ("accuracy", "balanced_accuracy", "log_loss")
        ]


def test_labels_of_other_folds_are_weighed_in_where_these_have_nuclei_nearby() -> None:
    logits, labels = calibrated(600)
    order = np.argsort(labels, kind="stable")  # ten of a kind lie together
    labels, probabilities = labels[order], softmax(logits[order])
    places = Places(np.arange(600) // 10, np.zeros(600), 5.0 * (np.arange(600) % 10))
    by_tissue, at_random = places.tissue % 3, np.random.default_rng(0).integers(0, 3, 600)
    assert np.isnan(combine.labels_of_other_folds(places, labels, by_tissue, 4, 50)).all()
    known = combine.labels_of_other_folds(places, labels, at_random, 4, 50)
    around = mean_of_neighbours(probabilities, places)
    together = cross_fit_neighbours(probabilities, around, labels, at_random, known)
    wrong, less = ((values.argmax(axis=1) != labels).mean() for values in (probabilities, together))
    assert less < wrong / 4


def test_all_that_is_compared_can_be_run() -> None:
    for comparison in COMPARISONS:
        for module, name in comparison.implementations():
            assert name in import_module(f"benchmarks.speed.{module}").IMPLEMENTATIONS


def test_a_table_has_its_numbers_on_the_right_and_a_cell_under_every_title() -> None:
    table = markdown_table(["", "accuracy"], [["cnn", "0.9"]])
    assert table == "|  | accuracy |\n|---|--:|\n| cnn | 0.9 |"
    with pytest.raises(ValueError, match="1 cells under 2 titles"):
        markdown_table(["", "accuracy"], [["cnn"]])
