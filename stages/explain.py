"""Draw what both networks look at in some held-out crops, and score how far that can be trusted."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.attribution import attribute, methods
from nuclei.classes import CLASSES
from nuclei.crops import open_crops
from nuclei.device import choose_device
from nuclei.errors import run
from nuclei.examples import choose_examples, worst_errors
from nuclei.faithfulness import Explained, average, metrics, pick, score_models, shift
from nuclei.files import read_csv, replacing_folder, write_csv, write_json
from nuclei.folds import roles
from nuclei.models import build, load_model
from nuclei.nucleus import centre_nucleus
from nuclei.params import load_params
from nuclei.plots import plot_attributions, plot_fill_curves, save_figure
from nuclei.predict import predict_probabilities

COLOURS = 64  # mean colours of training crops, for GradientSHAP


def main() -> None:
    params = load_params(Path("params.yaml"))
    own, precision = params.explain, params.train.precision
    device = choose_device(params.device, params.threads)
    split, all_crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    holdout = np.flatnonzero(split["Fold"].isin(roles(params.split.folds).holdout))
    training = np.flatnonzero(split["Fold"].isin(roles(params.split.folds).training))
    labels = split["Label"].to_numpy()[holdout]
    tables = {name: read_csv(Path(f"reports/predictions_{name}.csv")) for name in ("cnn", "resnet")}
    probabilities = np.stack([table.filter(like="Probability").to_numpy() for table in tables.values()])

    examples = choose_examples(labels, probabilities.argmax(axis=2), own.crops)
    worst = worst_errors(labels, probabilities, own.crops)
    chosen, places = np.unique(np.concatenate([examples, worst]), return_inverse=True)
    examples, worst = places[: len(examples)], places[len(examples) :]  # from here on rows of the chosen crops
    rows, labels, probabilities = holdout[chosen], labels[chosen], probabilities[:, chosen]
    crops, names, seeds = all_crops[rows], split["Filename"].to_numpy(str)[rows], own.seed + rows
    checked = np.flatnonzero(pd.Series(examples).groupby(labels[examples]).cumcount() < own.checks)
    few = examples[checked]

    colours = np.random.default_rng(own.seed).permutation(training)[:COLOURS]
    ways = methods(own, precision, all_crops[colours].mean(axis=(1, 2)))
    predicted = dict(zip(tables, probabilities.argmax(axis=2), strict=True))
    maps, explained = {}, {}
    for name, targets in predicted.items():
        model = load_model(Path(f"data/models/{name}.safetensors"))
        untrained = build(model.architecture, seed=2**31 + own.seed)  # no training starts from this seed
        maps[name] = attribute(model.network, crops, targets, seeds, ways, device, name)
        rest = targets[few], seeds[few], ways, device
        explained[name] = Explained(
            partial(predict_probabilities, model, device=device, precision=precision),
            targets[examples],
            pick(maps[name], examples),
            moved=attribute(model.network, shift(crops[few], 1), *rest, f"{name}, crops moved"),
            untrained=attribute(untrained, crops[few], *rest, f"{name}, random weights"),
        )
    scores, curves = score_models(explained, crops[examples], checked, own.points, own.seed)
    means = average(scores)
    print(means.round(3).to_string(index=False))

    nuclei = np.stack([centre_nucleus(crop) for crop in crops])
    with replacing_folder(Path("data/explain")) as folder:
        arrays = {f"{name}_{method}": values for name, own in maps.items() for method, values in own.items()}
        arrays |= {f"{name}_predicted": targets for name, targets in predicted.items()}
        np.savez(folder / "maps.npz", Filename=names, Label=labels, nucleus=nuclei, **arrays)
        write_csv(folder / "scores.csv", scores.assign(Crop=names[examples[scores["Crop"]]]))
    with replacing_folder(Path("reports/explain")) as folder:
        galleries = {title: examples[labels[examples] == label] for label, title in enumerate(CLASSES)}
        for number, (title, some) in enumerate((galleries | {"worst errors": worst}).items()):
            figure = plot_attributions(
                crops[some],
                nuclei[some],
                [f"{names[place]}: {CLASSES[labels[place]]}" for place in some],
                {name: pick(own, some) for name, own in maps.items()},
                {
                    name: [f"{CLASSES[chances.argmax()]} {chances.max():.0%}" for chances in guess[some]]
                    for name, guess in zip(tables, probabilities, strict=True)
                },
            )
            save_figure(figure, folder / f"{number}_{title.replace(' ', '_')}.png")
    save_figure(plot_fill_curves(curves), Path("reports/faithfulness.png"))
    write_csv(Path("reports/faithfulness.csv"), means)
    write_csv(Path("reports/fill_curves.csv"), curves)
    for name in tables:
        write_json(Path(f"reports/faithfulness_{name}.json"), metrics(means, name))


if __name__ == "__main__":
    run(main)
