"""Score both networks on the held-out fold."""

from pathlib import Path

import numpy as np

from nuclei.classes import CLASSES
from nuclei.crops import open_crops
from nuclei.device import choose_device
from nuclei.errors import run
from nuclei.files import read_csv, write_csv, write_json
from nuclei.folds import roles
from nuclei.metrics import score, score_classes, softmax
from nuclei.models import load_model
from nuclei.params import load_params
from nuclei.plots import plot_confusion, plot_curves, save_figure
from nuclei.predict import predict_logits


def main() -> None:
    params = load_params(Path("params.yaml"))
    split = read_csv(Path("data/split.csv"))
    rows = np.flatnonzero(split["Fold"].isin(roles(params.split.folds).holdout))
    crops, holdout = open_crops(Path("data/crops"), "train")[rows], split.iloc[rows]
    labels = holdout["Label"].to_numpy()
    device = choose_device(params.device, params.threads)
    predicted, curves = {}, {}
    for name in ("cnn", "resnet"):
        network = load_model(Path(f"data/models/{name}.safetensors")).network.to(device)
        logits = predict_logits(network, crops, device, params.train.precision, params.predict.tta)
        probabilities = softmax(logits)
        predicted[name] = probabilities.argmax(axis=1)
        curves[name] = read_csv(Path(f"reports/curves_{name}.csv"))
        columns = {f"Probability_{label}": probabilities[:, label] for label in range(len(CLASSES))}
        table = holdout[["Filename", "Label"]].assign(Predicted=predicted[name], **columns)
        scores = score(labels, probabilities, params.evaluate.bins)
        print(f"{name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items()))
        write_json(Path(f"reports/metrics_{name}.json"), scores)
        write_csv(Path(f"reports/classes_{name}.csv"), score_classes(labels, probabilities, CLASSES))
        write_csv(Path(f"reports/predictions_{name}.csv"), table)
    save_figure(plot_confusion(labels, predicted, CLASSES), Path("reports/confusion.png"))
    save_figure(plot_curves(curves), Path("reports/curves.png"))


if __name__ == "__main__":
    run(main)
