"""Train one network, `cnn` or `resnet`, on the training folds; then, for `submit`, on all labelled crops."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from nuclei.crops import open_crops, select
from nuclei.device import choose_device
from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.fit import Recipe, fit, keep_best
from nuclei.folds import roles
from nuclei.models import Model, ResNet18, SmallCNN, build, load_pretrained, save_model
from nuclei.params import load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["cnn", "resnet"])
    model = parser.parse_args().model
    params = load_params(Path("params.yaml"))
    tuned = json.loads(Path(f"reports/tuned_{model}.json").read_text())
    split = read_csv(Path("data/split.csv"))
    crops = open_crops(Path("data/crops"), "train")
    folds = roles(params.split.folds)

    if model == "cnn":
        own = params.train_cnn
        shape = SmallCNN(params.data.channels, tuple(params.cnn.filters), tuple(tuned["widths"]), params.cnn.dropout)
        network = build(shape, own.seed)
    else:
        own = params.train_resnet
        shape = ResNet18(params.data.channels, params.resnet.stem)
        network = build(shape, own.seed)
        weights = load_file("data/weights/resnet18.safetensors")
        if weights:  # none: it starts from random ones
            load_pretrained(network, weights)
    recipe = Recipe(
        lr=params.lr or tuned["lr"],
        batch_size=params.batch_size or tuned["batch_size"],
        epochs=params.epochs or own.epochs,
        seed=own.seed,
        ema=own.ema,
        train=params.train,
    )
    device = choose_device(params.device, params.threads)
    fitting, validation = select(crops, split, folds.training), select(crops, split, folds.validation)
    curves, best = keep_best(fit(network, fitting, validation, recipe, device, model), own.patience)
    network.load_state_dict(best.weights)
    save_model(Path(f"data/models/{model}.safetensors"), Model(network, shape))
    write_csv(Path(f"reports/curves_{model}.csv"), pd.DataFrame(curves))
    print(f"{model}: epoch {best.number} is the best, validation accuracy {best.scores['validation_accuracy']:.4f}")

    if own.final_epochs:
        everything = select(crops, split, range(params.split.folds))
        final = replace(recipe, epochs=own.final_epochs)
        *_, last = fit(network, everything, None, final, device, f"{model} on all crops")
        network.load_state_dict(last.weights)
    save_model(Path(f"data/models/{model}_final.safetensors"), Model(network, shape))


if __name__ == "__main__":
    run(main)
