"""Draw what the networks look at in some held-out crops, and score how far that can be trusted."""

from pathlib import Path

import numpy as np

from nuclei.classes import CLASSES
from nuclei.crops import open_crops
from nuclei.device import Place
from nuclei.errors import run
from nuclei.explanation import select_and_explain
from nuclei.faithfulness import metrics
from nuclei.files import read_csv, replacing_folder, write_csv, write_json
from nuclei.folds import roles
from nuclei.galleries import draw_galleries
from nuclei.models import load_model
from nuclei.params import load_params
from nuclei.plots import plot_fill_curves, save_figure

PALETTE = 256  # colours of a gallery: heat maps are large


def main() -> None:
    params = load_params(Path("params.yaml"))
    names, (fold,) = ("cnn", "resnet"), roles(params.split.folds).holdout
    tables = {name: read_csv(Path(f"reports/predictions_{name}.csv")) for name in names}
    result = select_and_explain(
        open_crops(Path("data/crops"), "train"),
        read_csv(Path("data/split.csv")),
        {name: table.filter(like="Probability_").to_numpy() for name, table in tables.items()},
        {name: {fold: load_model(Path(f"data/models/{name}.safetensors"))} for name in names},
        *(CLASSES, params.explain, params.train.precision, Place(params.device, params.threads)),
    )
    with replacing_folder(Path("data/explain")) as folder:
        np.savez(folder / "maps.npz", **result.arrays())
        write_csv(
            folder / "scores.csv", result.scores.assign(Crop=result.table["Filename"][result.scores["Crop"]].array)
        )
    with replacing_folder(Path("reports/explain")) as folder:
        for name, figure in draw_galleries(result, CLASSES, params.explain.gallery_crops):
            save_figure(figure, folder / f"{name}.png", PALETTE)
    print(result.means.round(3).to_string(index=False))
    save_figure(plot_fill_curves(result.curves), Path("reports/faithfulness.png"))
    write_csv(Path("reports/faithfulness.csv"), result.means)
    write_csv(Path("reports/fill_curves.csv"), result.curves)
    for name in names:
        write_json(Path(f"reports/faithfulness_{name}.json"), metrics(result.means, name))


if __name__ == "__main__":
    run(main)
