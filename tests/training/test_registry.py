"""A third network: one class and one entry, in a copy of the package, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import nuclei
from nuclei.models.checkpoint import load_model
from tools.clone import ROOT, change_params

ARCHITECTURE = """
from dataclasses import dataclass

from torch import nn

from nuclei.task import CLASSES


@dataclass(frozen=True)
class Toy:
    channels: int
    filters: int
    classes: int = len(CLASSES)

    @classmethod
    def from_params(cls, params, task, tuned):
        return cls(params.data.channels, tuned["toy_filters"])

    @staticmethod
    def search_space(params):
        return {"toy_filters": [3, 4, 5]}

    def build(self):
        layers = nn.Conv2d(self.channels, self.filters, 10, stride=10), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(4 * self.filters, self.classes))

    def load_pretrained(self, network, weights):
        raise NotImplementedError

    def cam_layer(self, network):
        return network[1]
"""
ENTRY = '    "toy": NetworkEntry("ToyNet", "nuclei.models.toy.Toy", "train_cnn", pretrained=False),\n'

CHANGES = {
    "tune": {"trials": 3, "rungs": [0.5]},
    "train_cnn.epochs": 6,
    "lr": 0.02,
}

# The stages at work on 48 crops; what other networks would have left is made up.
PROGRAM = """
import shutil, sys
from pathlib import Path

import numpy as np
import pandas as pd
import ray
from coloured import coloured
from fake_results import FOLDS, GROUPS, LABELS, NAMES, write_results

import stages.evaluate, stages.report, stages.train
from nuclei.cluster import ray_cluster
from nuclei.crops import open_folds
from nuclei.files import write_csv, write_json
from nuclei.params import load_params
from nuclei.task import COLON
from nuclei.training.tuning import SearchData, draw_trials, inner_split, search, winner

data = coloured(48, wrong=0)
assert data.labels.tolist() == LABELS.tolist()
Path("data/crops").mkdir(parents=True)
np.save("data/crops/train.npy", data.crops)
table = {"Filename": NAMES, "Label": LABELS, "Group": GROUPS, "Fold": FOLDS, "Held_out": 1}
table |= {"Mosaic": GROUPS, "X": 50, "Y": 50}
write_csv(Path("data/split.csv"), pd.DataFrame(table))
write_csv(Path("data/crops/train.csv"), pd.DataFrame(table)[["Filename", "Label"]])
write_json(Path("data/crops/task.json"), COLON._asdict())
write_results(Path("reports"))

params, crops = load_params(Path("params.yaml")), open_folds(Path("data/crops"), Path("data/split.csv"))
with ray_cluster():
    trials = search(["toy"], SearchData(params, {}, *inner_split(crops)), Path("data/.resume/tune"))["toy"]
    assert trials.sort_values("trial")["toy_filters"].tolist() == [t["toy_filters"] for t in draw_trials("toy", params)]
    write_json(Path("reports/tune/toy/tuned.json"), winner(trials, params))
    write_csv(Path("reports/tune/toy/trials.csv"), trials)
    sys.argv[1:] = ["toy"]
    stages.train.main()
assert not ray.is_initialized()

for name in ("cnn", "resnet"):
    Path(f"data/models/{name}").mkdir()
    shutil.copy("data/models/toy/out_of_fold.npz", f"data/models/{name}")
stages.evaluate.main()
stages.report.main()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder in which the pipeline has run with the third network."""
    folder = tmp_path_factory.mktemp("project")
    package = shutil.copytree(
        Path(nuclei.__file__).parent, folder / "nuclei", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "models/toy.py").write_text(ARCHITECTURE)
    source = (package / "task.py").read_text()
    last = next(line for line in source.splitlines(keepends=True) if line.startswith('    "resnet": NetworkEntry('))
    (package / "task.py").write_text(source.replace(last, last + ENTRY))
    shutil.copy(ROOT / "params.yaml", folder)
    change_params(folder / "params.yaml", CHANGES)
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests/support")))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_tuned(project):
    trials = pd.read_csv(project / "reports/tune/toy/trials.csv")
    assert set(trials["model"]) == {"toy"} and trials["trial"].nunique() == 3
    tuned = json.loads((project / "reports/tune/toy/tuned.json").read_text())
    assert tuned == {key: trials.loc[0, key] for key in ("lr", "batch_size", "toy_filters")}


def test_it_is_trained_on_every_fold_and_on_all_crops(project):
    names = {path.name for path in (project / "data/models/toy").iterdir()}
    assert names == {*(f"fold_{fold}.safetensors" for fold in range(3)), "final.safetensors", "out_of_fold.npz"}
    curves = pd.read_csv(project / "reports/train/toy/curves.csv")
    assert curves.groupby("fold")["epoch"].max().to_dict() == {"0": 6, "1": 6, "2": 6, "all": 6}


def test_it_is_evaluated_and_compared_with_all_others(project):
    scores = json.loads((project / "reports/evaluate/metrics_toy.json").read_text())
    assert scores["accuracy"] > 0.5 and scores["folds"] == 3
    comparison = json.loads((project / "reports/evaluate/comparison.json").read_text())
    assert set(comparison) == {"resnet_against_cnn", "toy_against_cnn", "toy_against_resnet"}
    assert "ToyNet" in comparison["toy_against_cnn"]["verdict"]


def test_it_is_reported(project):
    accuracy = json.loads((project / "reports/evaluate/metrics_toy.json").read_text())["accuracy"]
    page = (project / "reports/index.html").read_text()
    assert page.count("ToyNet") > 5 and f"{accuracy:.3f}" in page
    card = (project / "reports/model_card_toy.md").read_text()
    assert "ToyNet" in card and f"{accuracy:.3f}" in card


def test_without_its_entry_nobody_knows_it(project):
    with pytest.raises(nuclei.errors.InputError, match="not a model of this project"):
        load_model(project / "data/models/toy/final.safetensors")
