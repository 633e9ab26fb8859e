"""What only the whole shows: a real `dvc repro` on a tiny sample, and what reruns after a change."""

import json
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from dvc.repo import Repo
from PIL import Image

from nuclei.models.checkpoint import load_model
from nuclei.models.neighbours import add_neighbours, labels_around
from nuclei.models.predict import predict_probabilities
from nuclei.report.results import STAGES as STAGE_OF_FILE
from nuclei.splitting.overlap import load_pairs
from nuclei.splitting.places import crop_places
from nuclei.task import COLON, NETWORKS
from tools.certificate import hashes
from tools.clone import ROOT, Clone

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
AFTER_EVALUATION = {"primary_metrics", "review", "explain", "figures"}
AFTER_TRAINING = {"evaluate", "robustness", "submit"} | AFTER_EVALUATION
TRAINING = {"train_cnn", "train_resnet"} | AFTER_TRAINING
SEARCH = {"tune"} | TRAINING


def outputs(stage: dict) -> set[str]:
    entries = stage.get("outs", []) + stage.get("metrics", [])
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def reruns(clone: Clone, changed: str = "") -> set[str]:
    """Stages that the next `dvc repro` runs: those that have changed, and all that read what they write.

    In this process: as a command it takes two seconds, nearly all to start.

    Args:
        clone: Where.
        changed: The only file that has changed, to look at no other one; empty: look at all.
    """
    with chdir(clone.path), Repo() as repo:
        if changed:
            reads = {
                stage.addressing: [dep for dep in stage.deps if dep.def_path == changed] for stage in repo.index.stages
            }
            stages = {name for name, deps in reads.items() if any(dep.workspace_status() for dep in deps)}
        else:
            stages = set(repo.status())
    written = {name: outputs(stage) for name, stage in STAGES.items()}
    while True:
        dirty = set().union(*(written[name] for name in stages))
        more = {name for name, stage in STAGES.items() if not dirty.isdisjoint(parents(stage))} - stages
        if not more:
            return stages
        stages |= more


def read_json(clone: Clone, path: str) -> dict:
    return json.loads((clone.path / path).read_text())


def parents(stage: dict) -> set[str]:
    """Everything a stage reads, and the folders that hold it."""
    deps = {"data/sample" if dep == "${data.raw}" else dep for dep in stage["deps"]}
    return deps | {str(folder) for dep in deps for folder in Path(dep).parents}


def test_every_stage_writes_what_it_promises(finished):
    for stage in STAGES.values():
        for path in outputs(stage):
            assert (finished.path / path).exists(), path


def test_a_second_repro_has_nothing_to_do_and_leaves_git_clean(finished):
    start = time.monotonic()
    assert "up to date" in finished.run("dvc", "repro").stdout
    assert time.monotonic() - start < 60  # a hang, not a speed test
    assert finished.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train_cnn.seed": 7}, {"train_cnn"} | AFTER_TRAINING),
        ({"train_resnet.ema": 0.9}, {"train_resnet"} | AFTER_TRAINING),
        ({"train_cnn.epochs": 3}, SEARCH),  # the rungs of the search are shares of it
        ({"lr": 0.001}, TRAINING),
        ({"batch_size": 16}, TRAINING),
        ({"epochs": 1}, TRAINING),
        ({"tune.trials": 3}, SEARCH),
        ({"train.stain": 0.3}, SEARCH),
        ({"overlap.window": 16}, {"overlap", "split"} | SEARCH),
        ({"split.by": "random"}, {"split"} | SEARCH),
        ({"split.held_out": 3}, {"split"} | SEARCH),
        ({"sample.seed": 7}, set(STAGES) - {"weights"}),
        ({"data.channels": 1}, set(STAGES) - {"weights", "sample"}),
        ({"data.mpp": 0.5}, set(STAGES) - {"weights", "sample"}),
        ({"resnet.size": 48}, SEARCH),
        ({"model": "cnn"}, {"primary_metrics"}),
        ({"explain.curve_points": 3}, {"explain", "figures"}),
        ({"evaluate.bins": 5}, {"evaluate"} | AFTER_EVALUATION),
        ({"evaluate.target_coverage": 0.8}, {"evaluate"} | AFTER_EVALUATION),
        ({"robustness.factors": [1.5]}, {"robustness", "figures"}),
        ({"review.crops": 4}, {"review"}),
        ({"predict.tta": False}, {"evaluate", "submit"} | AFTER_EVALUATION),
        ({"predict.average": "folds"}, {"submit"}),
        ({"predict.labelled_neighbours": False}, {"submit"}),
        ({"report.crops": 5}, set()),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_reruns_only_what_depends_on_it(finished, change, expected):
    original = (finished.path / "params.yaml").read_text()
    finished.set(change)
    try:
        assert reruns(finished, "params.yaml") == expected | {"report"}  # which shows all parameters
    finally:
        (finished.path / "params.yaml").write_text(original)


def test_changed_starting_weights_are_noticed(finished):
    weights = finished.path / "data/pretrained/mine.pth"
    weights.write_bytes(b"of another training")
    try:
        status = finished.run("dvc", "status", "weights").stdout
        assert "changed deps" in status and "data/pretrained" in status
    finally:
        weights.unlink()


def test_metrics_show_lists_both_models(finished):
    metrics = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    for name in NETWORKS:
        scores = metrics[f"reports/evaluate/metrics_{name}.json"]["data"]
        for metric in ("accuracy", "log_loss", "brier"):
            assert scores[f"{metric}_low"] <= scores[metric] <= scores[f"{metric}_high"]
        assert scores["crops"] == 40  # two folds of three are held out
    comparison = metrics["reports/evaluate/comparison.json"]["data"]["resnet_against_cnn"]
    assert comparison["p_value"] == 1 or "difference" in comparison["verdict"]


def test_plots_show_draws_confusion_and_curves_of_both(finished):
    finished.run("dvc", "plots", "show", "--out", "plots_out")
    page = (finished.path / "plots_out" / "index.html").read_text()
    for name in NETWORKS:
        assert f"{name}/curves.csv::" in page  # what the paths of both have in common is left out
        for kind in ("predictions", "reliability", "selective"):
            assert f"{kind}_{name}.csv" in page
    finished.run("git", "clean", "-dfq")


def test_submissions_have_the_rows_of_the_example(finished):
    example = pd.read_csv(finished.path / "data/sample/example.csv")
    for name in NETWORKS:
        submission = pd.read_csv(finished.path / f"reports/submit/submission_{name}.csv")
        assert list(submission.columns) == ["Filename", "Label"]
        assert submission["Filename"].tolist() == example["Filename"].tolist()
        assert submission["Label"].isin(range(4)).all()


def test_every_held_out_crop_is_scored_once_by_the_network_that_did_not_see_it(finished):
    split = pd.read_csv(finished.path / "data/split.csv")
    held_out = split[split["Held_out"] == 1]
    crops = np.load(finished.path / "data/crops/train.npy")
    for name in NETWORKS:
        predictions = pd.read_csv(finished.path / f"reports/evaluate/predictions_{name}.csv")
        assert predictions["Filename"].tolist() == held_out["Filename"].tolist()
        assert predictions["Fold"].tolist() == held_out["Fold"].tolist()
        for fold, rows in predictions.groupby("Fold"):
            model = load_model(finished.path / f"data/models/{name}/fold_{fold}.safetensors")
            seen = crops[split.index[split["Fold"] == fold]]
            expected = predict_probabilities(model, seen, torch.device("cpu"), "auto", tta=True)
            probabilities = rows.filter(like="Probability").to_numpy()
            assert np.allclose(probabilities, expected, atol=0.02)  # another number of threads
            assert (probabilities.argmax(axis=1) == rows["Predicted"]).all()


def test_labels_near_a_test_crop_are_weighed_into_its_answer(finished):
    folder, crops = finished.path / "data", np.load(finished.path / "data/crops/test.npy")
    train, pairs = pd.read_csv(folder / "crops/train.csv"), load_pairs(folder / "overlaps.npz")
    places = crop_places(pairs, len(train) + len(crops), COLON)
    test, labelled = places.take(np.arange(len(train), len(places.x))), places.take(np.arange(len(train)))
    around = labels_around(test, labelled, train["Label"].to_numpy(), 4)
    near = read_json(finished, "reports/submit/neighbours.json")
    sharing = np.unique(pairs.second[(pairs.first < len(train)) & (pairs.second >= len(train))])
    share = (~np.isnan(around[:, 0])).mean()
    assert 0 < len(sharing) / len(crops) <= share == pytest.approx(near["near_labelled"], abs=1e-5)
    for name in NETWORKS:
        model = load_model(folder / f"models/{name}/final.safetensors")
        alone = predict_probabilities(model, crops, torch.device("cpu"), "auto", tta=True)
        expected = add_neighbours(alone, around, model.averaged.neighbourhood.weights)
        answers = pd.read_csv(finished.path / f"reports/submit/submission_{name}.csv")["Label"]
        assert np.allclose(expected[np.arange(len(crops)), answers], expected.max(axis=1), atol=0.02)
        assert near["changed"][name] == (answers != alone.argmax(axis=1)).sum()
    assert sum(near["changed"].values()) > 0


def test_the_tables_add_up_to_the_scores(finished):
    for name in NETWORKS:
        folder = finished.path / "reports/evaluate"
        scores = read_json(finished, f"reports/evaluate/metrics_{name}.json")
        answered = pd.read_csv(folder / f"selective_{name}.csv").iloc[-1]
        assert (answered["selected_fraction"], answered["accuracy"]) == pytest.approx((1, scores["accuracy"]), abs=1e-5)
        bins = pd.read_csv(folder / f"reliability_{name}.csv").query("calibrated == 1")
        gaps = (bins["accuracy"] - bins["confidence"]).abs()
        assert np.average(gaps, weights=bins["crops"]) == pytest.approx(scores["ece"], abs=1e-5)
        predictions = pd.read_csv(folder / f"predictions_{name}.csv", dtype=str, keep_default_na=False)
        covered = [row.Label in row.Set.split() for row in predictions.itertuples()]
        assert np.mean(covered) == pytest.approx(scores["set_coverage"], abs=1e-5)
        groups = pd.read_csv(folder / f"groups_{name}.csv")
        assert np.average(groups["Accuracy"], weights=groups["Crops"]) == pytest.approx(scores["accuracy"], abs=1e-5)
        unchanged = pd.read_csv(finished.path / f"reports/robustness/scores_{name}.csv").iloc[0]
        assert unchanged["corruption"] == "none" and 0 <= unchanged["accuracy"] <= 1


def test_every_image_opens(finished):
    images = list((finished.path / "reports").rglob("*.png"))
    assert len(images) >= 12
    for path in images:
        with Image.open(path) as image:
            image.load()


def test_the_report_shows_the_scores_that_were_measured(finished):
    page = (finished.path / "reports/index.html").read_text()
    assert "Missing: " not in page and len(page) < 5_000_000
    for name in NETWORKS:
        accuracy = read_json(finished, f"reports/evaluate/metrics_{name}.json")["accuracy"]
        assert f'<td class="number">{accuracy:.3f}' in page
        assert f"| accuracy | {accuracy:.3f} |" in (finished.path / f"reports/model_card_{name}.md").read_text()
    assert "reports/index.html" not in finished.run("git", "ls-files").stdout  # it is large, and DVC's


def test_the_code_of_a_model_card_runs(finished, monkeypatch):
    card = (finished.path / "reports/model_card_cnn.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(finished.path)
    exec(code, names := {})
    assert names["probabilities"].shape == (8, 4)


def test_the_report_reads_what_dvc_yaml_says_and_nothing_else(finished):
    code = """
import sys
from pathlib import Path
opened = set()
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, Path)) and not str(arguments[1]).startswith("w"):
        opened.add(str(Path(arguments[0]).resolve()))
sys.addaudithook(note)
from stages import report
report.main()
assert "torch" not in sys.modules and "sklearn" not in sys.modules
print(*opened, sep="\\n")
"""
    here = finished.path.resolve()
    opened = {Path(line) for line in finished.run("python", "-c", code).stdout.splitlines()}
    read = {str(path.relative_to(here)) for path in opened if path.is_relative_to(here) and path.suffix != ".pyc"}
    read = {path for path in read if not path.endswith("__init__.py")}  # they import nothing of the project
    read -= {"nuclei/errors.py", "nuclei/params.py", "nuclei/checked_yaml.py"}  # never deps: see test_dependencies.py
    read -= {"nuclei/machine.py"}  # which stages/__init__.py asks for settings of matplotlib
    read = {path for path in read if not Path(path).name.startswith(".")}
    deps = set(STAGES["report"]["deps"])
    covers = {dep: {path for path in read if path == dep or path.startswith(f"{dep}/")} for dep in deps}
    assert read == set().union(*covers.values())
    unread = {dep for dep, paths in covers.items() if not paths}
    assert not {dep for dep in unread if not dep.startswith(("nuclei/", "stages/", "data/models/"))}


@pytest.mark.parametrize("name", STAGE_OF_FILE)
def test_the_report_names_the_stage_that_writes_a_file(name):
    path = Path("reports") / name
    assert outputs(STAGES[STAGE_OF_FILE[name]]) & {str(path), *map(str, path.parents)}


def test_search_prints_a_line_a_trial_and_nothing_of_rays(finished):
    text = finished.first_output.split("Running stage 'tune'")[1].split("Updating lock file")[0]
    lines = [line for line in text.splitlines()[2:] if line.strip()]
    assert len(lines) == 2 * 2 + 2, text  # a line a trial, a line a winner
    assert all(line.startswith(("cnn", "resnet")) for line in lines)


def test_a_weights_file_that_is_missing_is_an_error(finished):
    original = (finished.path / "params.yaml").read_text()
    finished.set({"train_resnet.weights": "missing.safetensors"})
    before = hashes(finished)
    done = finished.run("dvc", "repro", "weights", check=False)
    (finished.path / "params.yaml").write_text(original)
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert "data/pretrained/missing.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert hashes(finished) == before


def test_broken_data_end_with_one_line_and_keep_earlier_outputs(finished):
    before = hashes(finished)
    raw = finished.path / "data" / "broken"
    raw.mkdir()
    for path in (finished.path / "data/sample").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    table = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join([*table[:3], "3.png,9", *table[4:]]) + "\n")
    original = (finished.path / "params.yaml").read_text()
    finished.set({"data.raw": "data/broken"})
    done = finished.run("dvc", "repro", "unzip", check=False)
    (finished.path / "params.yaml").write_text(original)
    for path in raw.iterdir():
        path.unlink()
    raw.rmdir()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: data/broken/train.csv, line 4: Label is '9', expected one of 0, 1, 2, 3, or their names: "
        "normal epithelial, cancer epithelial, muscle, immune leukocyte"
    ]
    assert done.returncode != 0
    assert hashes(finished) == before
    assert "up to date" in finished.run("dvc", "repro").stdout
