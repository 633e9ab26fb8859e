"""What a run of the pipeline leaves for the report, small and made up: every file, with everything switched on."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nuclei.crops import Places
from nuclei.evaluation.comparison import compare
from nuclei.evaluation.evaluate import evaluate
from nuclei.evaluation.review import find_label_issues
from nuclei.evaluation.with_neighbours import evaluate_with_neighbours
from nuclei.files import write_csv, write_json
from nuclei.params import Params, load_params
from nuclei.report.results import STAGES
from nuclei.task import CLASSES, NETWORKS

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
NAMES = [f"{number}.png" for number in range(48)]
LABELS = np.arange(48) % 4
GROUPS = np.arange(48) // 4
FOLDS = GROUPS % 3  # of 5
# By network and crop, the incorrect class that it predicts and its logit: the higher, the more confident.
ERRORS = {"cnn": {0: (1, 7), 4: (1, 9), 2: (3, 6)}, "resnet": {4: (1, 9), 3: (0, 5)}}


def with_params(**sections: dict) -> Params:
    """Return the project's parameters with some changed: with_params(report={"crops": 1}, lr=0.1)."""
    values = PARAMS.model_dump()
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return Params.model_validate(values)


def draw_crops(names: list[str] = NAMES, channels: int = 3) -> dict[str, np.ndarray]:
    crops = np.random.default_rng(0).integers(0, 256, (len(names), 100, 100, channels)).astype(np.uint8)
    return dict(zip(names, crops, strict=True))


def fake_logits(model: str) -> np.ndarray:
    """Logits of all crops, correct but for ERRORS."""
    logits = np.random.default_rng(len(model)).uniform(0, 1, (48, 4)).astype(np.float32)
    logits[np.arange(48), LABELS] += 4
    for crop, (predicted, logit) in ERRORS.get(model, {}).items():
        logits[crop, predicted] = logit
    return logits


def write_results(folder: Path, names: list[str] = NAMES) -> None:
    """Write all that the report reads into `folder`."""
    about = {"height": 100, "width": 100, "channels": 3, "duplicates": 2, "mean": [0.7, 0.5, 0.7], "std": [0.1] * 3}
    write_json(
        folder / "unzip/data.json",
        {
            "train": {"crops": 80, **about, "crops_per_class": dict(zip(CLASSES, (14, 36, 10, 20), strict=True))},
            "test": {"crops": 40, **about},
            "same_crop_other_label": 1,
            "test_crops_in_train": 5,
            "notes": ["groups are compared without spaces"],
        },
    )
    leaks = {"overlapping_share": 0.975, "pairs": 6863, "groups": 43, "largest_group": 79, "pairs_across_folds": 0}
    leaks |= {"test_overlapping_share": 0.9, "leaking_share_of_random_fold": {"0": 1.0, "1": 0.991667}}
    write_json(folder / "split/leakage.json", leaks)
    duplicates = {"First": names[:2], "Second": names[2:4], "Bits": [3, 4]}
    write_csv(folder / "overlap/near_duplicates.csv", pd.DataFrame(duplicates))
    write_json(folder / "weights/weights.json", {"asked": "imagenet", "used": "imagenet", "source": "torchvision"})
    predictions = {model: _write_model(folder, model, names) for model in NETWORKS}
    labels, (first, second, *_) = LABELS, NETWORKS
    predicted = {PARAMS.titles[model]: predictions[model]["Predicted"].to_numpy() for model in (first, second)}
    write_json(folder / "evaluate/comparison.json", {"resnet_against_cnn": compare(labels, predicted, GROUPS, CLASSES)})
    places = Places(GROUPS, np.zeros(48), 10.0 * (np.arange(48) % 4))
    neighbours = {
        model: evaluate_with_neighbours(predictions[model], places, CLASSES, PARAMS.titles[model], bins=10)
        for model in NETWORKS
    }
    write_json(folder / "evaluate/neighbours.json", neighbours)
    write_csv(folder / "review/label_issues.csv", find_label_issues(predictions))
    write_csv(folder / "explain/faithfulness.csv", fake_faithfulness())
    (folder / "explain").mkdir(exist_ok=True)
    images = [folder / name for name in STAGES if name.endswith(".png")]
    for path in [*images, folder / "explain/2_muscle.png"]:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(path)


def write_trials(folder: Path, model: str, **widths: int) -> None:
    """Write what a search leaves; `widths`: of the CNN, where it is to be trained with them."""
    trials = {"model": model, "trial": [1, 0, 2], "lr": [0.003, 0.001, 0.02], "batch_size": 8, **widths}
    trials |= {"rung": [1, 0, 0], "steps": [20, 10, 10], "crops": [160, 80, 80], "heldout_loss": [0.3, 0.4, 17.5]}
    write_csv(folder / f"tune/{model}/trials.csv", pd.DataFrame(trials))
    write_json(folder / f"tune/{model}/tuned.json", {"lr": 0.003, "batch_size": 8, **widths})


def fake_faithfulness() -> pd.DataFrame:
    """A table as that of `summarise`: two baselines, a method and a null order of each network."""
    rows = []
    for model in NETWORKS:
        for baseline in ("mean_colour", "blurred"):
            for weights, method, gain, finding in (
                ("trained", "occlusion_28", 0.1234, "consistent with what the network uses"),
                ("trained", "integrated_gradients", 0.0456, "cannot be told"),
                ("trained", "centre_first", 0.0, ""),
                ("random", "integrated_gradients", -0.1, ""),
            ):
                row = {"Model": model, "Weights": weights, "Baseline": baseline, "Method": method}
                row |= {"Networks": 5 if weights == "random" else 1, "Crops": 16, "Groups": 9}
                row |= {"Deletion": 0.4, "Insertion": 0.6, "Deletion_gain": gain, "Insertion_gain": 2 * gain}
                row |= {"In_disc": 0.3, "In_nucleus": 0.2, "Stability": 0.98 if finding else None, "Agreement": 0.5}
                row |= {"Deletion_error": 0.031, "Insertion_error": 0.05}
                spread = 0.02 if weights == "random" else None
                row |= {"Deletion_spread": spread, "Insertion_spread": spread, "Pixels_per_cell": None}
                rows.append(row | {"Baseline_class": "muscle", "Baseline_share": 1.0, "Rank": 1.0, "Finding": finding})
    return pd.DataFrame(rows)


def _write_model(folder: Path, model: str, names: list[str]) -> pd.DataFrame:
    crops = pd.DataFrame({"Filename": names, "Label": LABELS, "Group": GROUPS, "Fold": FOLDS})
    evaluation = evaluate(crops, fake_logits(model), CLASSES, PARAMS.evaluate)
    write_json(folder / f"evaluate/metrics_{model}.json", evaluation.scores)
    for name, table in evaluation.tables().items():
        write_csv(folder / f"evaluate/{name}_{model}.csv", table)
    changes = {"corruption": ["none", "blur", "stain"], "severity": [0.0, 2.0, 1.0]}
    changes |= {"accuracy": [0.9, 0.8, 0.7], "balanced_accuracy": [0.85, 0.75, 0.65]}
    write_csv(folder / f"robustness/scores_{model}.csv", pd.DataFrame(changes))
    curves = [
        {"fold": fold, "epoch": epoch, "lr": 0.001, "train_loss": 1 / epoch}
        | ({"heldout_loss": 0.9 / epoch, "heldout_accuracy": 0.5} if fold != "all" else {})
        for fold in (0, 1, 2, "all")
        for epoch in (1, 2)
    ]
    write_csv(folder / f"train/{model}/curves.csv", pd.DataFrame(curves))
    write_json(
        folder / f"train/{model}/environment.json", {"device": "cpu", "threads": 1, "packages": {"torch": "9.8.7"}}
    )
    write_trials(folder, model)
    submission = pd.DataFrame({"Filename": ["a.png"] * 40, "Label": [3] * 40})
    write_csv(folder / f"submit/submission_{model}.csv", submission)
    write_json(folder / "submit/neighbours.json", {"near_labelled": 0.9, "changed": {"cnn": 1, "resnet": 3}})
    return evaluation.predictions
