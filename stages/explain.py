"""Draw what both networks look at in some held-out crops, and score how far that can be trusted."""

from pathlib import Path

import numpy as np

from nuclei.classes import CLASSES
from nuclei.crops import open_crops
from nuclei.device import Place
from nuclei.errors import run
from nuclei.examples import choose
from nuclei.explanation import explain
from nuclei.faithfulness import average, metrics, pick, score_models
from nuclei.files import atomic_directory, read_csv, write_csv, write_json
from nuclei.folds import roles
from nuclei.models import load_model
from nuclei.nucleus import centre_nucleus
from nuclei.params import load_params
from nuclei.plots import plot_attributions, plot_fill_curves, save_figure

COLOURS = 64  # mean colours of training crops, for GradientSHAP
PALETTE = 256  # colours of a gallery: heat maps are large


def main() -> None:
    params = load_params(Path("params.yaml"))
    own, place = params.explain, Place(params.device, params.threads)
    split, all_crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    folds = roles(params.split.folds)
    training, holdout = (np.flatnonzero(split["Fold"].isin(some)) for some in (folds.training, folds.holdout))
    tables = {name: read_csv(Path(f"reports/predictions_{name}.csv")) for name in ("cnn", "resnet")}
    chances = np.stack([table.filter(like="Probability_").to_numpy() for table in tables.values()])

    chosen = choose(split["Label"].to_numpy()[holdout], chances, own.crops, own.errors, own.checks)
    rows, chances = holdout[chosen.rows], dict(zip(tables, chances[:, chosen.rows], strict=True))
    crops, labels, names = all_crops[rows], split["Label"].to_numpy()[rows], split["Filename"].to_numpy(str)[rows]
    typical = chosen.typical
    colours = all_crops[np.random.default_rng(own.seed).permutation(training)[:COLOURS]].mean(axis=(1, 2))
    maps, explained = {}, {}
    for name in tables:
        model, targets = load_model(Path(f"data/models/{name}.safetensors")), chances[name].argmax(axis=1)
        maps[name], explained[name] = explain(
            model, crops, targets, own.seed + rows, chosen, colours, own, params.train.precision, place, name
        )
    scores, curves = score_models(explained, crops[typical], chosen.checked, own.points, own.seed)
    means = average(scores)
    print(means.round(3).to_string(index=False))

    nuclei = np.stack([centre_nucleus(crop) for crop in crops])
    arrays = {f"{name}_{method}": values for name, some in maps.items() for method, values in some.items()}
    arrays |= {f"{name}_predicted": some.argmax(axis=1) for name, some in chances.items()}
    with atomic_directory(Path("data/explain"), replace=True) as folder:
        np.savez(folder / "maps.npz", Filename=names, Label=labels, nucleus=nuclei, **arrays)
        write_csv(folder / "scores.csv", scores.assign(Crop=names[typical[scores["Crop"]]]))

    titles = np.array([f"{name}\ntrue: {CLASSES[label]}" for name, label in zip(names, labels, strict=True)])
    said = {
        name: np.array([f"{CLASSES[row.argmax()]} {row.max():.0%}" for row in some]) for name, some in chances.items()
    }
    galleries = {name: typical[labels[typical] == label] for label, name in enumerate(CLASSES)}
    with atomic_directory(Path("reports/explain"), replace=True) as folder:
        for number, (gallery, some) in enumerate((galleries | {"worst errors": chosen.worst}).items()):
            of_models = {name: pick(own_maps, some) for name, own_maps in maps.items()}
            figure = plot_attributions(crops[some], nuclei[some], titles[some], of_models, pick(said, some))
            save_figure(figure, folder / f"{number}_{gallery.replace(' ', '_')}.png", PALETTE)
    save_figure(plot_fill_curves(curves), Path("reports/faithfulness.png"))
    write_csv(Path("reports/faithfulness.csv"), means)
    write_csv(Path("reports/fill_curves.csv"), curves)
    for name in tables:
        write_json(Path(f"reports/faithfulness_{name}.json"), metrics(means, name))


if __name__ == "__main__":
    run(main)
