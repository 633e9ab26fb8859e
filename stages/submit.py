"""Predict the test crops with both networks, in the order of example.csv."""

from functools import partial
from pathlib import Path

import numpy as np

from nuclei.cluster import map_crops
from nuclei.crops import open_crops
from nuclei.device import Place
from nuclei.errors import InputError, run
from nuclei.files import read_csv, write_csv
from nuclei.models.checkpoint import load_model
from nuclei.models.predict import predict_probabilities
from nuclei.params import load_params
from nuclei.task import CLASSES


def main() -> None:
    params = load_params(Path("params.yaml"))
    index = read_csv(Path("data/crops/test.csv"))
    crops = open_crops(Path("data/crops"), "test")
    place, how = Place(params.device, params.threads), {"precision": params.train.precision, "tta": params.predict.tta}
    for name in ("cnn", "resnet"):
        paths = [Path(f"data/models/{name}_final.safetensors")]
        if params.predict.average == "folds":
            paths = sorted(Path("data/models/folds").glob(f"{name}_*.safetensors"))
        if not paths:
            raise InputError(
                f"predict.average: folds, but data/models/folds has no {name}: use -S 'crossval.models=[cnn,resnet]'"
            )
        predictors = [partial(predict_probabilities, load_model(path), **how) for path in paths]
        labels = np.mean([map_crops(predict, [crops], place) for predict in predictors], axis=0).argmax(axis=1)
        write_csv(Path(f"reports/submission_{name}.csv"), index[["Filename"]].assign(Label=labels))
        counts = np.bincount(labels, minlength=len(CLASSES))
        print(f"{name}: " + ", ".join(f"{count} {title}" for count, title in zip(counts, CLASSES, strict=True)))


if __name__ == "__main__":
    run(main)
