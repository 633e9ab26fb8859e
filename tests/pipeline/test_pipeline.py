"""What only the whole shows: a real `dvc repro` on a tiny sample, and what reruns after a change."""

import json
import re
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
from nuclei.models.predict import predict_probabilities
from nuclei.report.results import STAGES as STAGE_OF_FILE
from tools.certificate import hashes
from tools.clone import ROOT, Clone

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
AFTER_EVALUATION = {"headline", "explain", "review"}
AFTER_TRAINING = {"evaluate", "robustness", "submit"} | AFTER_EVALUATION
FOLDS = {"train_folds", "crossval", "review", "submit"}


def outputs(stage: dict) -> set[str]:
    entries = stage.get("outs", []) + stage.get("metrics", [])
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def reruns(clone: Clone) -> set[str]:
    """Stages that the next `dvc repro` runs: those that `dvc status` names, and all that read what they write."""
    with chdir(clone.path), Repo() as repo:  # in this process: as a command it takes two seconds, nearly all to start
        stages = set(repo.status())
    written = {name: outputs(stage) for name, stage in STAGES.items()}
    while True:
        dirty = set().union(*(written[name] for name in stages))
        more = {name for name, stage in STAGES.items() if not dirty.isdisjoint(parents(stage))} - stages
        if not more:
            return stages
        stages |= more


def parents(stage: dict) -> set[str]:
    """Everything a stage reads, and the folders that hold it."""
    deps = {"data/sample" if dep == "${data.raw}" else dep for dep in stage["deps"]}
    return deps | {str(Path(dep).parent) for dep in deps}


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
        ({"train_cnn.seed": 7}, {"train_cnn"} | AFTER_TRAINING | FOLDS),
        ({"train_cnn.epochs": 3}, {"train_cnn"} | AFTER_TRAINING | FOLDS),
        ({"train_resnet.final_epochs": 0}, {"train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"lr": 0.001}, {"train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"batch_size": 16}, {"train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"epochs": 1}, {"train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"tune.trials": 3}, {"tune", "train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"train.stain": 0.3}, {"tune", "train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"overlap.window": 16}, {"overlap", "split", "tune", "train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"split.by": "random"}, {"split", "tune", "train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"split.seed": 7}, {"split", "tune", "train_cnn", "train_resnet"} | AFTER_TRAINING | FOLDS),
        ({"sample.seed": 7}, set(STAGES) - {"weights"}),
        ({"data.channels": 1}, set(STAGES) - {"weights", "sample"}),
        ({"model": "cnn"}, {"headline"}),
        ({"explain.points": 3}, {"explain"}),
        ({"crossval.models": ["cnn"]}, FOLDS),
        ({"evaluate.bins": 5}, {"evaluate", "crossval"} | AFTER_EVALUATION),
        ({"evaluate.coverage": 0.8}, {"evaluate"} | AFTER_EVALUATION),
        ({"robustness.factors": [1.0]}, {"robustness"}),
        ({"review.confidence": 0.5}, {"review"}),
        ({"predict.tta": False}, {"evaluate", "crossval", "submit"} | AFTER_EVALUATION),
        ({"predict.average": "folds"}, {"submit"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_reruns_only_what_depends_on_it(finished, change, expected):
    original = (finished.path / "params.yaml").read_text()
    finished.set(change)
    try:
        assert reruns(finished) == expected | {"report"}  # which shows all parameters
    finally:
        (finished.path / "params.yaml").write_text(original)


def test_lr_on_the_command_line_trains_both_models_and_nothing_before_them(finished):
    changes = ("-S", "lr=0.0005", "-S", "epochs=1")
    try:
        out = finished.run("dvc", "exp", "run", "-n", "low-lr", *changes, "train_cnn", "train_resnet").stdout
        assert sorted(re.findall("Running stage '(.+)'", out)) == ["train_cnn", "train_resnet"]
        assert reruns(finished) == AFTER_TRAINING | FOLDS | {"report"}
        curves = pd.read_csv(finished.path / "reports" / "curves_resnet.csv")
        assert len(curves) == 1
    finally:
        finished.run("git", "checkout", ".")
        finished.run("dvc", "checkout")


def test_metrics_diff_compares_the_two_models(finished):
    for name in ("cnn", "resnet"):
        finished.run("dvc", "exp", "run", "-n", name, "-S", f"model={name}")
    finished.run("git", "checkout", ".")
    finished.run("dvc", "checkout")
    diff = json.loads(finished.run("dvc", "metrics", "diff", "cnn", "resnet", "--json").stdout)
    change = diff["reports/metrics.json"]["log_loss"]
    expected = {
        name: json.loads((finished.path / f"reports/metrics_{name}.json").read_text()) for name in ("cnn", "resnet")
    }
    assert change["old"] == expected["cnn"]["log_loss"]
    assert change["new"] == expected["resnet"]["log_loss"]


def test_metrics_show_lists_both_models(finished):
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)
    metrics = shown[""]["data"]
    one, other = (metrics[f"reports/metrics_{name}.json"]["data"] for name in ("cnn", "resnet"))
    assert one.keys() == other.keys()
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "ece"):
        assert one[f"{metric}_low"] <= one[f"{metric}_high"]
        assert metric in one
    assert metrics["reports/comparison.json"]["data"]["is_it_luck"].startswith("Cannot be told: ")  # a handful of tiles


def test_plots_show_draws_confusion_and_curves_of_both(finished):
    finished.run("dvc", "plots", "show", "--out", "plots_out")
    page = (finished.path / "plots_out" / "index.html").read_text()
    for kind in ("predictions", "curves", "reliability", "abstention", "robustness"):
        assert f"{kind}_cnn.csv" in page and f"{kind}_resnet.csv" in page
    finished.run("git", "clean", "-dfq")


def test_submissions_have_the_rows_of_the_example(finished):
    example = pd.read_csv(finished.path / "data/sample/example.csv")
    for name in ("cnn", "resnet"):
        submission = pd.read_csv(finished.path / f"reports/submission_{name}.csv")
        assert list(submission.columns) == ["Filename", "Label"]
        assert submission["Filename"].tolist() == example["Filename"].tolist()
        assert submission["Label"].isin(range(4)).all()


def test_only_held_out_crops_are_scored(finished):
    split = pd.read_csv(finished.path / "data/split.csv")
    for name in ("cnn", "resnet"):
        predictions = pd.read_csv(finished.path / f"reports/predictions_{name}.csv")
        assert predictions["Filename"].tolist() == split.loc[split["Fold"] == 0, "Filename"].tolist()
        chances = predictions.filter(like="Probability").to_numpy()
        assert np.allclose(chances.sum(axis=1), 1, atol=1e-4)
        assert (chances.argmax(axis=1) == predictions["Predicted"]).all()


def test_cross_validation_is_off_and_costs_no_import_of_torch(finished):
    before = hashes(finished)
    code = (
        "import sys; from stages import crossval, review, train_folds\n"
        "for stage in (train_folds, crossval, review): stage.main()\n"
        "assert 'torch' not in sys.modules"
    )
    assert "labels in the held-out fold" in finished.run("python", "-c", code).stdout
    assert hashes(finished) == before
    assert json.loads((finished.path / "reports/crossval.json").read_text()) == {}


def test_submissions_of_fold_models_that_were_not_trained_end_with_one_line(finished):
    original = (finished.path / "params.yaml").read_text()
    before = hashes(finished)
    finished.set({"predict.average": "folds"})
    done = finished.run("python", "-m", "stages.submit", check=False)
    (finished.path / "params.yaml").write_text(original)
    assert done.returncode == 1
    assert done.stderr.startswith("error: predict.average: folds, but data/models/folds has no cnn: ")
    assert hashes(finished) == before


def test_one_command_trains_and_scores_all_folds_and_submits_their_average(finished):
    out = finished.run(
        "dvc", "exp", "run", "-S", "crossval.models=[cnn,resnet]", "-S", "predict.average=folds"
    ).stdout  # fmt: skip
    try:
        assert all(f"Running stage '{stage}'" in out for stage in ("train_folds", "crossval", "review", "submit"))
        assert "Running stage 'train_cnn'" not in out and "Running stage 'evaluate'" not in out
        split = pd.read_csv(finished.path / "data/split.csv")
        predictions = pd.read_csv(finished.path / "data/crossval.csv")
        scores = pd.read_csv(finished.path / "reports/crossval.csv")
        summary = json.loads((finished.path / "reports/crossval.json").read_text())
        for name in ("cnn", "resnet"):
            own = predictions[predictions["Model"] == name]
            assert sorted(own["Filename"]) == sorted(split["Filename"])  # every crop, once
            folds = scores[scores["model"] == name]
            right = (own["Predicted"] == own["Label"]).groupby(own["Fold"]).mean()
            assert folds["accuracy"].tolist() == pytest.approx(right.tolist(), abs=1e-5)
            assert summary[name]["accuracy"]["mean"] == pytest.approx(right.mean(), abs=1e-5)
            assert summary[name]["accuracy"]["spread"] == pytest.approx(right.std(), abs=1e-5)
        files = hashes(finished)
        # With fold 0 held out, training is the same as in the train stage.
        assert files["data/models/folds/cnn_0.safetensors"] == files["data/models/cnn.safetensors"]
        assert files["data/models/folds/resnet_0.safetensors"] == files["data/models/resnet.safetensors"]
        assert len({files[f"data/models/folds/cnn_{fold}.safetensors"] for fold in range(3)}) == 3
        assert "labels in all crops" in out
        models = [load_model(finished.path / f"data/models/folds/cnn_{fold}.safetensors") for fold in range(3)]
        crops = np.load(finished.path / "data/crops/test.npy")
        chances = [predict_probabilities(model, crops, torch.device("cpu"), "auto", tta=True) for model in models]
        submission = pd.read_csv(finished.path / "reports/submission_cnn.csv")
        assert submission["Label"].tolist() == np.mean(chances, axis=0).argmax(axis=1).tolist()
    finally:
        finished.run("git", "checkout", ".")
        finished.run("dvc", "checkout")


def test_the_curves_add_up_to_the_scores(finished):
    """On the held-out fold: all crops answered give the accuracy, and so does each stain as it is (without tta)."""
    for name in ("cnn", "resnet"):
        scores = json.loads((finished.path / f"reports/metrics_{name}.json").read_text())
        answered = pd.read_csv(finished.path / f"reports/abstention_{name}.csv").iloc[-1]
        assert (answered["coverage"], answered["accuracy"]) == pytest.approx((1, scores["accuracy"]), abs=1e-5)
        bins = pd.read_csv(finished.path / f"reports/reliability_{name}.csv")
        gaps = (bins["accuracy"] - bins["confidence"]).abs()
        assert np.average(gaps, weights=bins["crops"]) == pytest.approx(scores["ece"], abs=1e-5)
        predictions = pd.read_csv(finished.path / f"reports/predictions_{name}.csv", dtype=str, keep_default_na=False)
        held = [label in some.split() for label, some in zip(predictions["Label"], predictions["Set"], strict=True)]
        assert np.mean(held) == pytest.approx(scores["set_coverage"], abs=1e-5)
        stains = pd.read_csv(finished.path / f"reports/robustness_{name}.csv").set_index("factor").loc[1]
        assert stains["haematoxylin_accuracy"] == stains["eosin_accuracy"]


def test_every_picture_opens(finished):
    pictures = list((finished.path / "reports").rglob("*.png"))
    assert len(pictures) >= 12
    for path in pictures:
        with Image.open(path) as image:
            image.load()


def test_the_report_shows_the_scores_that_were_measured(finished):
    page = (finished.path / "reports/index.html").read_text()
    assert "Missing: " not in page and len(page) < 5_000_000
    for name in ("cnn", "resnet"):
        accuracy = json.loads((finished.path / f"reports/metrics_{name}.json").read_text())["accuracy"]
        assert f'<td class="number">{accuracy:.3f}' in page
        assert f"| accuracy | {accuracy:.3f} |" in (finished.path / f"reports/model_card_{name}.md").read_text()
    assert "reports/index.html" not in finished.run("git", "ls-files").stdout  # it is large, and DVC's


def test_the_code_of_a_model_card_runs(finished):
    card = (finished.path / "reports/model_card_cnn.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    finished.run("python", "-c", f"{code}\nassert probabilities.shape == (8, 4)")


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
    read = {path for path in read if not Path(path).name.startswith(".")}
    deps = set(STAGES["report"]["deps"])
    covers = {dep: {path for path in read if path == dep or path.startswith(f"{dep}/")} for dep in deps}
    assert read == set().union(*covers.values())
    unread = {dep for dep, paths in covers.items() if not paths}
    assert not {dep for dep in unread if not dep.startswith(("nuclei/", "stages/", "data/models/"))}


@pytest.mark.parametrize("name", STAGE_OF_FILE)
def test_the_report_names_the_stage_that_writes_a_file(name):
    assert f"reports/{name}" in outputs(STAGES[STAGE_OF_FILE[name]])


def test_search_prints_a_line_a_trial_and_nothing_of_rays(finished):
    text = finished.first_output.split("Running stage 'tune'")[1].split("Updating lock file")[0]
    lines = [line for line in text.splitlines()[2:] if line.strip()]
    assert len(lines) == 2 * 2 + 2, text  # a line a trial, a line a winner
    assert all(line.startswith(("cnn", "resnet")) for line in lines)


def test_on_a_users_own_data_missing_pretrained_weights_are_an_error(finished, tmp_path):
    original = (finished.path / "params.yaml").read_text()
    missing = tmp_path / "missing.safetensors"
    finished.set({"train_resnet.weights": str(missing)})
    before = hashes(finished)
    done = finished.run("dvc", "repro", "weights", check=False)
    (finished.path / "params.yaml").write_text(original)
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert str(missing) in done.stderr
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
    assert errors == ["error: data/broken/train.csv, line 4: Label is '9', expected one of 0, 1, 2, 3"]
    assert done.returncode != 0
    assert hashes(finished) == before
    assert "up to date" in finished.run("dvc", "repro").stdout
