"""Train each network that `crossval.models` names once for every held-out fold; none: nothing."""

import json
import shutil
from pathlib import Path

from nuclei.errors import run
from nuclei.files import atomic_directory, read_csv, write_json
from nuclei.params import Params, load_params

KEPT = Path("data/.resume/train_folds")  # what to go on from after an interruption


def main() -> None:
    params = load_params(Path("params.yaml"))
    with atomic_directory(Path("data/models/folds"), replace=True) as folder:
        write_json(folder / "models.json", params.crossval.models)  # DVC warns of an empty folder
        if params.crossval.models:
            train_folds(params, folder)
    shutil.rmtree(KEPT, ignore_errors=True)


def train_folds(params: Params, folder: Path) -> None:
    # Imported here: PyTorch alone would take longer than the rest of a run that trains nothing.
    from safetensors.torch import load_file

    from nuclei.crops import open_crops, select
    from nuclei.device import Place
    from nuclei.folds import check_training, roles
    from nuclei.models import save_model
    from nuclei.train import plan, train

    split, crops = read_csv(Path("data/split.csv")), open_crops(Path("data/crops"), "train")
    check_training(split["Label"].to_numpy(), split["Fold"].to_numpy(), params.split.folds)
    pretrained = load_file("data/weights/resnet18.safetensors")
    place = Place(params.device, params.threads, params.workers)
    for name in params.crossval.models:
        how = plan(name, params, json.loads(Path(f"reports/tuned_{name}.json").read_text()), pretrained)
        for fold in range(params.split.folds):
            members = roles(params.split.folds, holdout=fold)
            fitting, validation = (select(crops, split, some) for some in (members.training, members.validation))
            file = f"{name}_{fold}.safetensors"
            model, *_ = train(how, fitting, validation, place, f"{name} without fold {fold}", KEPT / file)
            save_model(folder / file, model)


if __name__ == "__main__":
    run(main)
