"""Search the hyper-parameters of both networks."""

import shutil
from pathlib import Path

from safetensors.torch import load_file

from nuclei.crops import open_crops, roles, select
from nuclei.errors import run
from nuclei.figures import save_figure
from nuclei.files import read_csv, write_csv, write_json
from nuclei.models.networks import ResNet18, SmallCNN
from nuclei.params import load_params
from nuclei.report.curves import plot_search
from nuclei.training.tuning import search


def main() -> None:
    params = load_params(Path("params.yaml"))
    split = read_csv(Path("data/split.csv"))
    crops = open_crops(Path("data/crops"), "train")
    folds = roles(params.split.folds)
    kept = Path("data/.resume/tune")  # what to go on from after an interruption
    first = params.tune.widths[0]
    tables = search(
        shapes={
            "cnn": SmallCNN(params.data.channels, tuple(params.cnn.filters), (first, first), params.cnn.dropout),
            "resnet": ResNet18(params.data.channels, params.resnet.stem),
        },
        weights=load_file("data/weights/resnet18.safetensors"),
        train=select(crops, split, folds.training),
        validation=select(crops, split, folds.validation),
        recipe=params.train,
        settings=params.tune,
        device=params.device,
        kept=kept,
    )
    for name, table in tables.items():
        winner = table.iloc[0]
        tuned = {"lr": float(winner["lr"]), "batch_size": int(winner["batch_size"])}
        if "width_1" in table:
            tuned["widths"] = [int(winner["width_1"]), int(winner["width_2"])]
        print(f"{name}: {tuned}")
        write_json(Path(f"reports/tuned_{name}.json"), tuned)
        write_csv(Path(f"reports/trials_{name}.csv"), table)
    save_figure(plot_search(tables), Path("reports/trials.png"))
    shutil.rmtree(kept, ignore_errors=True)


if __name__ == "__main__":
    run(main)
