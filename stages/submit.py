"""Predict the test crops with both networks, in the order of example.csv."""

from pathlib import Path

import numpy as np

from nuclei.classes import CLASSES
from nuclei.crops import open_crops
from nuclei.device import choose_device
from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.models import load_model
from nuclei.params import load_params
from nuclei.predict import predict_logits


def main() -> None:
    params = load_params(Path("params.yaml"))
    index = read_csv(Path("data/crops/test.csv"))
    crops = open_crops(Path("data/crops"), "test")
    device = choose_device(params.device, params.threads)
    for name in ("cnn", "resnet"):
        network = load_model(Path(f"data/models/{name}_final.safetensors")).network.to(device)
        labels = predict_logits(network, crops, device, params.train.precision, params.predict.tta).argmax(axis=1)
        write_csv(Path(f"reports/submission_{name}.csv"), index[["Filename"]].assign(Label=labels))
        counts = np.bincount(labels, minlength=len(CLASSES))
        print(f"{name}: " + ", ".join(f"{count} {title}" for count, title in zip(counts, CLASSES, strict=True)))


if __name__ == "__main__":
    run(main)
