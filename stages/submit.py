"""Predict the test crops with all networks, in the order of example.csv."""

from pathlib import Path

import numpy as np

from nuclei.crops import open_crops
from nuclei.device import Compute
from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.models.checkpoint import load_fold_models, load_model
from nuclei.models.predict import predict_mean
from nuclei.params import load_params
from nuclei.task import NETWORKS


def main() -> None:
    params = load_params(Path("params.yaml"))
    table, crops = read_csv(Path("data/crops/test.csv")), open_crops(Path("data/crops"), "test")
    compute = Compute(params.device, params.threads)
    for name in NETWORKS:
        folder = Path(f"data/models/{name}")
        if params.predict.average == "folds":
            models = list(load_fold_models(folder).values())
        else:
            models = [load_model(folder / "final.safetensors")]
        probabilities = predict_mean(models, crops, compute, params.train.precision, params.predict.tta)
        labels = probabilities.argmax(axis=1)
        write_csv(Path(f"reports/submit/submission_{name}.csv"), table[["Filename"]].assign(Label=labels))
        classes = models[0].task.classes
        counts = np.bincount(labels, minlength=len(classes))
        print(f"{name}: " + ", ".join(f"{count} {title}" for count, title in zip(counts, classes, strict=True)))


if __name__ == "__main__":
    run(main)
