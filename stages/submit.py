"""Predict the test crops with all networks, in the order of example.csv."""

from pathlib import Path

import numpy as np

from nuclei.crops import open_crops
from nuclei.device import Compute
from nuclei.errors import run
from nuclei.files import read_csv, write_csv, write_json
from nuclei.models.checkpoint import load_fold_models, load_model
from nuclei.models.neighbours import add_neighbours, labels_around
from nuclei.models.predict import neighbour_weights, predict_mean
from nuclei.params import load_params
from nuclei.splitting.overlap import load_pairs
from nuclei.splitting.places import crop_places
from nuclei.task import NETWORKS, read_task


def main() -> None:
    params, task = load_params(Path("params.yaml")), read_task(Path("data/crops"))
    train, test = (read_csv(Path(f"data/crops/{part}.csv")) for part in ("train", "test"))
    places = crop_places(load_pairs(Path("data/overlaps.npz")), len(train) + len(test), task)
    labelled = np.arange(len(train) + len(test)) < len(train)
    labels = train["Label"].to_numpy(np.int64)
    around = labels_around(places.take(~labelled), places.take(labelled), labels, len(task.classes))

    crops, compute = open_crops(Path("data/crops"), "test"), Compute(params.device, params.threads)
    changed = {}
    for name in NETWORKS:
        folder = Path(f"data/models/{name}")
        if params.predict.average == "folds":
            models = list(load_fold_models(folder).values())
        else:
            models = [load_model(folder / "final.safetensors")]
        probabilities = alone = predict_mean(models, crops, compute, params.train.precision, params.predict.tta)
        weights = neighbour_weights(models, params.predict.tta)
        if params.predict.labelled_neighbours and weights is not None:
            probabilities = add_neighbours(alone, around, weights)
            changed[name] = int((probabilities.argmax(axis=1) != alone.argmax(axis=1)).sum())
        answers = probabilities.argmax(axis=1)
        write_csv(Path(f"reports/submit/submission_{name}.csv"), test[["Filename"]].assign(Label=answers))
        counts = np.bincount(answers, minlength=len(task.classes))
        print(f"{name}: " + ", ".join(f"{count} {title}" for count, title in zip(counts, task.classes, strict=True)))
    near = {"near_labelled": float((~np.isnan(around[:, 0])).mean()), "changed": changed}
    write_json(Path("reports/submit/neighbours.json"), near)


if __name__ == "__main__":
    run(main)
