"""Score all networks on held-out crops with other stains, blur, compression: what training did not use."""

from pathlib import Path

from nuclei.crops import open_folds
from nuclei.device import Compute
from nuclei.errors import run
from nuclei.evaluation.robustness import score_robustness
from nuclei.files import write_csv
from nuclei.models.checkpoint import load_fold_models
from nuclei.params import load_params
from nuclei.task import NETWORKS


def main() -> None:
    params = load_params(Path("params.yaml"))
    crops = open_folds(Path("data/crops"), Path("data/split.csv"))
    compute = Compute(params.device, params.threads)

    for name in NETWORKS:
        models = load_fold_models(Path(f"data/models/{name}"))
        scores = score_robustness(models, crops, params.robustness, compute, params.train.precision)
        write_csv(Path(f"reports/robustness/scores_{name}.csv"), scores)


if __name__ == "__main__":
    run(main)
