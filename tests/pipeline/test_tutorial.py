"""docs/tutorial.md, run from its first command to its last by somebody who has nothing but the page.

DVC runs its stages up to the weights; the others, and `nuclei`, run in this process, where PyTorch and Ray are there
already.
"""

import json

import pandas as pd
import pytest
import yaml
from stage_runs import BEFORE_TUNING, FROM_TUNING, run_stages
from test_docs import read_blocks, run_block
from test_pipeline import STAGES, outputs

from nuclei import load
from tools.clone import ROOT, TINY, Clone, clone_project

CLASSES = ("cancer epithelial", "immune leukocyte", "muscle", "normal epithelial")  # by the alphabet


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Clone:
    clone = clone_project(tmp_path_factory.mktemp("project"))
    folds = yaml.safe_load((ROOT / "params.yaml").read_text())["split"]["folds"]  # as many as who follows the page has
    clone.set(
        {
            "split": {"folds": folds, "held_out": 2},
            "resnet": {"backbone": "test_resnet", "size": 32},  # timm's smallest
            "robustness.crops": 24,
            "train_cnn.epochs": 1,
            "tune": {"trials": 1, "rungs": [0.05]},
        }
    )
    clone.set({"explain": TINY["explain"] | {"methods": ["occlusion"]}})
    clone.commit()
    return clone


def test_every_command_of_the_page_runs_in_its_order(project, local_ray, unchanged_torch):
    blocks = [block for block in read_blocks(ROOT / "docs/tutorial.md") if block.language == ""]
    assert len(blocks) == 5
    for block in blocks:
        if "import points" in block.text:  # somebody who marked fewer nuclei: the same stages in less time
            nuclei = pd.read_csv(project.path / "slides/points.csv")
            marked = nuclei.groupby(["Image", "label"]).head(6)
            marked.to_csv(project.path / "slides/points.csv", index=False)
            assert (len(nuclei), len(marked)) == (1741, 204)
        if "relabel" in block.text:  # what a person would do before
            table = pd.read_csv(project.path / "reports/review/to_correct.csv")
            answers = table["Suggested"].where(table.index < 3, "")
            table.assign(Corrected=answers).to_csv(project.path / "corrected.csv", index=False)
        if "dvc exp run" in block.text:
            run_block(f"{block.text.strip()} {' '.join(BEFORE_TUNING)}", project)
            for stage in FROM_TUNING:
                for path in outputs(STAGES[stage.replace(" ", "_")]):  # of the sample; DVC deletes them, too
                    project.run("rm", "-rf", path)
            run_stages(project.path, FROM_TUNING)
        else:
            run_block(block.text, project)
    task = json.loads((project.path / "data/crops/task.json").read_text())
    assert tuple(task["classes"]) == CLASSES
    scores = json.loads((project.path / "reports/evaluate/metrics_cnn.json").read_text())
    assert scores["groups"] >= 2  # patients
    assert load(project.path / "data/models/cnn/final.safetensors").classes == CLASSES
    predicted = pd.read_csv(project.path / "predictions/tile_1_predictions.csv")
    assert len(predicted) == (nuclei["Image"] == "tile_1.png").sum() and set(predicted["Class"]) <= set(CLASSES)
    features = json.loads((project.path / "predictions/tile_1_predictions.geojson").read_text())["features"]
    kept = features[0]["properties"]["classification"]["name"]
    assert kept == predicted["Class"][0]
    corrected = pd.concat(pd.read_csv(project.path / f"data/corrected/{name}.csv") for name in ("train", "example"))
    assert len(corrected) == 204
    record = pd.read_csv(project.path / "data/corrected/corrections.csv").set_index("Filename")
    assert len(record) == 3 and len(list((project.path / "reports/review").glob("to_correct_tile_*.geojson"))) > 0
    before, after = (pd.read_csv(project.path / f"data/{name}/train.csv") for name in ("mine", "corrected"))
    changed = after[after["Label"] != before["Label"]].set_index("Filename")["Label"]
    assert changed.to_dict() == record["After"].to_dict()
