"""Draw what both networks look at in some held-out crops."""

from functools import partial
from pathlib import Path

import numpy as np

from nuclei.attribution import choose_examples, occlusion
from nuclei.classes import CLASSES
from nuclei.cluster import map_crops
from nuclei.crops import open_crops
from nuclei.device import Place
from nuclei.errors import run
from nuclei.files import read_csv, replacing_folder
from nuclei.models import load_model
from nuclei.params import load_params
from nuclei.plots import plot_heat_maps, save_figure


def main() -> None:
    params = load_params(Path("params.yaml"))
    split = read_csv(Path("data/split.csv"))
    predictions = {name: read_csv(Path(f"reports/predictions_{name}.csv")) for name in ("cnn", "resnet")}
    labels = predictions["cnn"]["Label"].to_numpy()
    chosen = choose_examples(
        labels, np.stack([table["Predicted"] for table in predictions.values()]), params.explain.crops
    )
    names = predictions["cnn"]["Filename"].to_numpy()[chosen]
    places = split.reset_index().set_index("Filename").loc[names, "index"].to_numpy()
    crops = open_crops(Path("data/crops"), "train")[places]
    place, window, stride = Place(params.device, params.threads), params.explain.window, params.explain.stride

    maps, captions = {}, {}
    for name, table in predictions.items():
        network = load_model(Path(f"data/models/{name}.safetensors")).network
        targets = table["Predicted"].to_numpy()[chosen]
        explain = partial(occlusion, network, window=window, stride=stride, precision=params.train.precision)
        maps[name] = map_crops(explain, [crops, targets], place)
        chances = table.filter(like="Probability").to_numpy()[chosen, targets]
        captions[name] = [f"{CLASSES[k]} {chance:.0%}" for k, chance in zip(targets, chances, strict=True)]
    with replacing_folder(Path("reports/explain")) as folder:
        for label, title in enumerate(CLASSES):
            rows = np.flatnonzero(labels[chosen] == label)
            figure = plot_heat_maps(
                crops[rows],
                [f"{names[row]}: {title}" for row in rows],
                {name: heat[rows] for name, heat in maps.items()},
                {name: [lines[row] for row in rows] for name, lines in captions.items()},
            )
            save_figure(figure, folder / f"{label}_{title.replace(' ', '_')}.png")
        np.savez(folder / "occlusion.npz", Filename=names.astype("U"), **maps)


if __name__ == "__main__":
    run(main)
