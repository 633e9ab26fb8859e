"""Score both networks on the held-out fold: how good, how certain, how sure of themselves, and which is better."""

from functools import partial
from pathlib import Path

from nuclei.cluster import map_crops
from nuclei.crops import open_crops, roles
from nuclei.device import Place, choose_device, describe_environment
from nuclei.errors import run
from nuclei.evaluation.evaluate import evaluate
from nuclei.evaluation.metrics import METRICS, compare, draw_resamples
from nuclei.figures import save_figure
from nuclei.files import read_csv, write_csv, write_json
from nuclei.models.checkpoint import load_model
from nuclei.models.predict import predict_logits
from nuclei.params import load_params
from nuclei.report.curves import plot_abstention, plot_confusion, plot_curves, plot_reliability
from nuclei.task import CLASSES, TITLES


def main() -> None:
    params = load_params(Path("params.yaml"))
    split, crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    folds = roles(params.split.folds)
    holdout, validation = (split[split["Fold"].isin(some)] for some in (folds.holdout, folds.validation))
    labels, groups = holdout["Label"].to_numpy(), holdout["Group"].to_numpy()
    resamples = draw_resamples(groups, params.evaluate.resamples, params.evaluate.seed)
    place, precision = Place(params.device, params.threads), params.train.precision

    found = {}
    for name in TITLES:
        model = load_model(Path(f"data/models/{name}.safetensors"))
        predict = partial(predict_logits, model.network, precision=precision, tta=params.predict.tta)
        logits, of_validation = (map_crops(predict, [crops[some.index]], place) for some in (holdout, validation))
        own = evaluate(
            *(holdout, logits, validation["Label"].to_numpy(), of_validation),
            *(model.temperature, resamples, params.evaluate),
        )
        print(f"{name}: " + ", ".join(f"{metric} {own.scores[metric]:.4f}" for metric in METRICS))
        write_json(Path(f"reports/metrics_{name}.json"), own.scores)
        write_csv(Path(f"reports/classes_{name}.csv"), own.classes)
        write_csv(Path(f"reports/predictions_{name}.csv"), own.predictions)
        write_csv(Path(f"reports/reliability_{name}.csv"), own.reliability[1])
        write_csv(Path(f"reports/abstention_{name}.csv"), own.abstention)
        found[name] = own

    predicted = {name: own.predictions["Predicted"].to_numpy() for name, own in found.items()}
    comparison = compare(labels, {TITLES[name]: guess for name, guess in predicted.items()}, groups, resamples)
    print(f"Is it luck? {comparison['is_it_luck']}")
    write_json(Path("reports/comparison.json"), comparison)
    device = choose_device(place.device, place.threads)
    write_json(Path("reports/environment.json"), describe_environment(device, place.threads, precision))
    save_figure(plot_confusion(labels, predicted, CLASSES), Path("reports/confusion.png"))
    curves = {name: read_csv(Path(f"reports/curves_{name}.csv")) for name in TITLES}
    save_figure(plot_curves(curves), Path("reports/curves.png"))
    save_figure(
        plot_reliability({name: own.reliability for name, own in found.items()}), Path("reports/reliability.png")
    )
    save_figure(plot_abstention({name: own.abstention for name, own in found.items()}), Path("reports/abstention.png"))


if __name__ == "__main__":
    run(main)
