"""Score both networks on held-out crops with stronger and weaker stains."""

from pathlib import Path

from nuclei.crops import open_crops, roles, select
from nuclei.device import setup_device
from nuclei.errors import run
from nuclei.evaluation.robustness import stain_shift
from nuclei.figures import save_figure
from nuclei.files import read_csv, write_csv
from nuclei.models.checkpoint import load_model
from nuclei.params import load_params
from nuclei.report.curves import plot_robustness


def main() -> None:
    params = load_params(Path("params.yaml"))
    split = read_csv(Path("data/split.csv"))
    holdout = select(open_crops(Path("data/crops"), "train"), split, roles(params.split.folds).holdout)
    device = setup_device(params.device, params.threads)
    tables = {}
    for name in ("cnn", "resnet"):
        network = load_model(Path(f"data/models/{name}.safetensors")).network.to(device)
        tables[name] = stain_shift(
            network, holdout.crops, holdout.labels, params.robustness.factors, device, params.train.precision
        )
        write_csv(Path(f"reports/robustness_{name}.csv"), tables[name])
    save_figure(plot_robustness(tables), Path("reports/robustness.png"))


if __name__ == "__main__":
    run(main)
