"""What a run of the pipeline leaves for the report, small and made up: every file, with everything switched on."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nuclei.files import write_csv, write_json
from nuclei.params import Params, load_params
from nuclei.report.results import STAGES
from nuclei.task import CLASSES

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "ece")
NAMES = [f"{number}.png" for number in range(12)]
LABELS = np.arange(12) % 4
# The CNN takes crops 0 and 4 for cancer and 2 for immune; the ResNet18 crop 4 for cancer and 3 for normal.
PREDICTED = {
    "cnn": [1, 1, 3, 3, 1, 1, 2, 3, 0, 1, 2, 3],
    "resnet": [0, 1, 2, 0, 1, 1, 2, 3, 0, 1, 2, 3],
}


def with_params(**sections: dict) -> Params:
    """Return the project's parameters with some changed: with_params(report={"crops": 1}, lr=0.1)."""
    values = PARAMS.model_dump()
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return Params.model_validate(values)


def draw_crops(names: list[str] = NAMES, channels: int = 3) -> dict[str, np.ndarray]:
    crops = np.random.default_rng(0).integers(0, 256, (len(names), 100, 100, channels)).astype(np.uint8)
    return dict(zip(names, crops, strict=True))


def write_results(folder: Path, names: list[str] = NAMES) -> None:
    """Write all that the report reads into `folder`."""
    about = {"height": 100, "width": 100, "channels": 3, "duplicates": 2, "mean": [0.7, 0.5, 0.7], "std": [0.1] * 3}
    write_json(
        folder / "data.json",
        {
            "train": {"crops": 1234, **about, "crops_per_class": dict(zip(CLASSES, (234, 500, 200, 300), strict=True))},
            "test": {"crops": 40, **about},
            "same_crop_other_label": 1,
            "test_crops_in_train": 5,
        },
    )
    leaks = {"overlapping_share": 0.975, "pairs": 6863, "groups": 43, "largest_group": 79, "pairs_across_folds": 0}
    leaks |= {"test_overlapping_share": 0.9, "leaking_share_of_random_fold": {"0": 1.0, "1": 0.991667}}
    write_json(folder / "leakage.json", leaks)
    write_csv(folder / "near_duplicates.csv", pd.DataFrame({"First": names[:2], "Second": names[2:4], "Bits": [3, 4]}))
    write_json(folder / "weights.json", {"asked": "imagenet", "used": "imagenet"})
    difference = {"accuracy_difference": 0.083, "is_it_luck": "It may be: they differ by 8.3 points."}
    write_json(folder / "comparison.json", difference)
    write_json(folder / "environment.json", {"device": "cpu", "threads": 2, "packages": {"torch": "9.8.7"}})
    write_json(
        folder / "crossval.json",
        {name: {metric: {"mean": 0.912, "spread": 0.034} for metric in METRICS} for name in PREDICTED},
    )
    scores = {metric: [0.9, 0.95] for metric in METRICS}
    write_csv(folder / "crossval.csv", pd.DataFrame({"model": "cnn", "fold": [0, 1], "crops": 6, "groups": 3} | scores))
    review = {"Filename": names[4:5], "Label": [0], "Predicted": [1], "Confidence": [0.91]}
    write_csv(folder / "review.csv", pd.DataFrame(review))
    faithfulness = {"Model": ["cnn", "resnet"], "Weights": "trained", "Method": ["layer_cam", "centre_first"]}
    faithfulness |= {"Crops": 8, "Deletion_gain": [0.1234, 0.0], "Stability": [0.98, None]}
    write_csv(folder / "faithfulness.csv", pd.DataFrame(faithfulness))
    for model, predicted in PREDICTED.items():
        _write_model(folder, model, names, np.array(predicted))
    (folder / "explain").mkdir()
    for path in [*(folder / name for name in STAGES if name.endswith(".png")), folder / "explain" / "2_muscle.png"]:
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(path)


def _write_model(folder: Path, model: str, names: list[str], predicted: np.ndarray) -> None:
    chances = np.full((len(names), 4), 0.1)
    chances[np.arange(len(names)), predicted] = 0.7
    chances[4, predicted[4]] = 0.9
    columns = {f"Probability_{label}": column for label, column in enumerate(chances.T)}
    table = pd.DataFrame({"Filename": names, "Label": LABELS, "Predicted": predicted} | columns)
    write_csv(folder / f"predictions_{model}.csv", table)
    values = dict.fromkeys(METRICS, 0.875 if model == "cnn" else 0.75)
    values |= {f"{metric}_low": 0.625 for metric in METRICS} | {f"{metric}_high": 0.9375 for metric in METRICS}
    values |= {"ece_unscaled": 0.2, "temperature": 1.25, "set_coverage": 0.89, "set_size": 1.5}
    write_json(folder / f"metrics_{model}.json", values | {"crops": 12, "groups": 30})
    classes = {"Class": CLASSES, "Precision": 0.5, "Recall": [0.1, 0.4, 0.3, 0.2], "F1": 0.25, "Crops": 3}
    write_csv(folder / f"classes_{model}.csv", pd.DataFrame(classes | {"Set_coverage": [0.9, None, 1, 1]}))
    curve = {"coverage": [0.5, 0.9, 1.0], "threshold": [0.9, 0.6, 0.3], "accuracy": [1.0, 0.95, 0.9]}
    write_csv(folder / f"abstention_{model}.csv", pd.DataFrame(curve))
    stains = {"factor": [1.0, 2.0], "haematoxylin_accuracy": [0.9, 0.5], "eosin_accuracy": [0.9, 0.8]}
    write_csv(folder / f"robustness_{model}.csv", pd.DataFrame(stains))
    epochs = {"epoch": [1, 2, 3], "train_loss": [1, 0.5, 0.2], "validation_loss": [0.9, 0.7, 0.8]}
    write_csv(folder / f"curves_{model}.csv", pd.DataFrame(epochs))
    trials = {"model": model, "trial": [1, 0, 2], "lr": [0.003, 0.001, 0.02], "validation_loss": [0.3, 0.4, 17.5]}
    write_csv(folder / f"trials_{model}.csv", pd.DataFrame(trials))
    write_json(folder / f"tuned_{model}.json", {"lr": 0.003, "batch_size": 32})
    write_csv(folder / f"submission_{model}.csv", pd.DataFrame({"Filename": ["a.png"] * 40, "Label": [3] * 40}))
