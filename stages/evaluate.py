"""Score both networks on the held-out fold: how good, how certain, how sure of themselves, and which is better."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.calibration import abstention_curve, conformal_sets, conformal_threshold, reliability_curve, score_sets
from nuclei.classes import CLASSES
from nuclei.cluster import map_crops
from nuclei.crops import open_crops
from nuclei.device import Place, choose_device
from nuclei.environment import describe_environment
from nuclei.errors import run
from nuclei.files import read_csv, write_csv, write_json
from nuclei.folds import roles
from nuclei.metrics import calibration_error, compare, draw_resamples, score, score_classes, score_intervals
from nuclei.models import load_model
from nuclei.params import load_params
from nuclei.plots import plot_abstention, plot_confusion, plot_curves, plot_reliability, save_figure
from nuclei.predict import predict_logits, tabulate
from nuclei.temperature import softmax
from nuclei.titles import TITLES


def main() -> None:
    params = load_params(Path("params.yaml"))
    split, crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    folds, bins = roles(params.split.folds), params.evaluate.bins
    rows, validation_rows = (np.flatnonzero(split["Fold"].isin(some)) for some in (folds.holdout, folds.validation))
    holdout, validation = split.iloc[rows], split.iloc[validation_rows]
    labels, groups = holdout["Label"].to_numpy(), holdout["Group"].to_numpy()
    resamples = draw_resamples(groups, params.evaluate.resamples, params.evaluate.seed)
    place, how = Place(params.device, params.threads), {"precision": params.train.precision, "tta": params.predict.tta}
    predicted, curves, reliability, abstention = {}, {}, {}, {}
    for name in ("cnn", "resnet"):
        model = load_model(Path(f"data/models/{name}.safetensors"))
        predict = partial(predict_logits, model.network, **how)
        logits, of_validation = (map_crops(predict, [crops[some]], place) for some in (rows, validation_rows))
        probabilities, unscaled = softmax(logits, model.temperature), softmax(logits)
        threshold = conformal_threshold(
            validation["Label"].to_numpy(), softmax(of_validation, model.temperature), params.evaluate.coverage
        )
        sets = conformal_sets(probabilities, threshold)
        scores = score(labels, probabilities, bins)
        print(f"{name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items()))
        scores |= {
            "ece_unscaled": calibration_error(labels, unscaled, bins),
            "temperature": model.temperature,
            "set_coverage": float(sets[np.arange(len(labels)), labels].mean()),
            "set_size": float(sets.sum(axis=1).mean()),
        }
        scores |= score_intervals(labels, probabilities, groups, resamples, bins)
        table = tabulate(holdout, probabilities).assign(Set=[" ".join(map(str, np.flatnonzero(row))) for row in sets])
        predicted[name] = table["Predicted"].to_numpy()
        curves[name] = read_csv(Path(f"reports/curves_{name}.csv"))
        reliability[name] = [reliability_curve(labels, some, bins) for some in (unscaled, probabilities)]
        abstention[name] = abstention_curve(labels, probabilities)
        by_class = pd.merge(score_classes(labels, probabilities, CLASSES), score_sets(labels, sets, CLASSES))
        write_json(Path(f"reports/metrics_{name}.json"), scores)
        write_csv(Path(f"reports/classes_{name}.csv"), by_class)
        write_csv(Path(f"reports/predictions_{name}.csv"), table)
        write_csv(Path(f"reports/reliability_{name}.csv"), reliability[name][1])
        write_csv(Path(f"reports/abstention_{name}.csv"), abstention[name])

    comparison = compare(labels, {TITLES[name]: guess for name, guess in predicted.items()}, groups, resamples)
    write_json(Path("reports/comparison.json"), comparison)
    environment = describe_environment(
        choose_device(params.device, params.threads), params.threads, params.train.precision
    )
    write_json(Path("reports/environment.json"), environment)
    print(f"Is it luck? {comparison['is_it_luck']}")
    save_figure(plot_confusion(labels, predicted, CLASSES), Path("reports/confusion.png"))
    save_figure(plot_curves(curves), Path("reports/curves.png"))
    save_figure(plot_reliability(reliability), Path("reports/reliability.png"))
    save_figure(plot_abstention(abstention), Path("reports/abstention.png"))


if __name__ == "__main__":
    run(main)
