"""Train one network, `cnn` or `resnet`, on the training folds; then, for `submit`, on all labelled crops."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from nuclei.crops import open_crops, roles, select
from nuclei.device import Place
from nuclei.errors import run
from nuclei.files import read_csv, write_csv
from nuclei.models.checkpoint import save_model
from nuclei.params import load_params
from nuclei.training.distributed import fit_anywhere
from nuclei.training.train import plan, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["cnn", "resnet"])
    name = parser.parse_args().model
    params = load_params(Path("params.yaml"))
    tuned = json.loads(Path(f"reports/tuned_{name}.json").read_text())
    pretrained = load_file("data/weights/resnet18.safetensors") if name == "resnet" else {}
    split = read_csv(Path("data/split.csv"))
    crops = open_crops(Path("data/crops"), "train")
    folds = roles(params.split.folds)
    place = Place(params.device, params.threads, params.workers)
    kept = Path(f"data/.resume/train_{name}")  # what to go on from after an interruption

    how = plan(name, params, tuned, pretrained)
    fitting, validation = select(crops, split, folds.training), select(crops, split, folds.validation)
    model, curves, best = train(how, fitting, validation, place, name, kept / "training.safetensors")
    save_model(Path(f"data/models/{name}.safetensors"), model)
    write_csv(Path(f"reports/curves_{name}.csv"), curves)
    print(f"{name}: epoch {best.number} is the best, validation accuracy {best.scores['validation_accuracy']:.4f}")

    if how.final_epochs:
        everything = select(crops, split, range(params.split.folds))
        final = replace(how.recipe, epochs=how.final_epochs)
        epochs = fit_anywhere(
            model.network, everything, None, final, place, f"{name} on all crops", kept / "final.safetensors"
        )
        *_, last = epochs
        model.network.load_state_dict(last.weights)
    # No crop is left to fit another temperature on: this model keeps the one that the validation fold gave.
    save_model(Path(f"data/models/{name}_final.safetensors"), model)
    shutil.rmtree(kept, ignore_errors=True)


if __name__ == "__main__":
    run(main)
