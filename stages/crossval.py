"""Score the models of `train_folds`, each on the fold that it was not trained on; none: empty tables."""

from functools import partial
from pathlib import Path

import pandas as pd

from nuclei.errors import run
from nuclei.evaluation.metrics import METRICS, mean_and_spread, score
from nuclei.files import read_csv, write_csv, write_json
from nuclei.params import Params, load_params


def main() -> None:
    params = load_params(Path("params.yaml"))
    empty = pd.DataFrame(columns=["Model", "Fold", "Group"])
    predictions = predict_folds(params) if params.crossval.models else empty
    rows = []
    for (model, fold), part in predictions.groupby(["Model", "Fold"], sort=False):
        labels, probabilities = part["Label"].to_numpy(), part.filter(like="Probability").to_numpy()
        about = {"model": model, "fold": fold, "crops": len(part), "groups": part["Group"].nunique()}
        rows.append(about | score(labels, probabilities, params.evaluate.bins))
    scores = pd.DataFrame(rows, columns=["model", "fold", "crops", "groups", *METRICS])
    summary = {model: mean_and_spread(part) for model, part in scores.groupby("model", sort=False)}
    for model, metrics in summary.items():
        accuracy = metrics["accuracy"]
        print(f"{model}: accuracy {accuracy['mean']:.4f} over the folds, spread {accuracy['spread']:.4f}")
    write_csv(Path("data/crossval.csv"), predictions)
    write_csv(Path("reports/crossval.csv"), scores)
    write_json(Path("reports/crossval.json"), summary)


def predict_folds(params: Params) -> pd.DataFrame:
    """Return a row a model and crop, from the model that did not see the crop's fold."""
    # Imported here: PyTorch alone would take longer than the rest of a run that scores nothing.
    from nuclei.cluster import map_crops
    from nuclei.crops import open_crops
    from nuclei.device import Place
    from nuclei.evaluation.evaluate import tabulate
    from nuclei.models.checkpoint import load_model
    from nuclei.models.predict import predict_probabilities

    split, crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    place, how = Place(params.device, params.threads), {"precision": params.train.precision, "tta": params.predict.tta}
    tables = []
    for name in params.crossval.models:
        for fold, part in split.groupby("Fold"):
            model = load_model(Path(f"data/models/folds/{name}_{fold}.safetensors"))
            predict = partial(predict_probabilities, model, **how)
            guesses = tabulate(part, map_crops(predict, [crops[part.index]], place))
            tables.append(part[["Fold", "Group"]].join(guesses).assign(Model=name))
    return pd.concat(tables)


if __name__ == "__main__":
    run(main)
