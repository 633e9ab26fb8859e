"""Train one kind of network: once per held-out fold, on all other folds, and once on all crops."""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from nuclei.crops import open_folds
from nuclei.device import Compute, describe_environment, setup_device
from nuclei.errors import run
from nuclei.files import write_csv, write_json
from nuclei.models.networks import build
from nuclei.params import load_params
from nuclei.task import NETWORKS
from nuclei.training.loop import training_precision
from nuclei.training.train import network_config, print_note_on_processor, save_trained, train_folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=NETWORKS)
    name = parser.parse_args().model
    params = load_params(Path("params.yaml"))
    tuned = json.loads(Path(f"reports/tune/{name}/tuned.json").read_text())
    pretrained = load_file("data/weights/pretrained.safetensors") if NETWORKS[name].pretrained else {}
    crops = open_folds(Path("data/crops"), Path("data/split.csv"))
    compute = Compute(params.device, params.train.threads)
    resume_dir, live = Path(f"data/.resume/train_{name}"), Path(f"data/live/{name}.csv")
    out, network = Path(f"reports/train/{name}"), network_config(name, params, crops.data.task, tuned, pretrained)
    device = setup_device(compute.device, compute.threads)
    precision = training_precision(build(network.architecture, seed=0), device, params.train.precision)
    environment = describe_environment(compute, precision)
    trained = train_folds(network, crops, compute, resume_dir, lambda curves: write_csv(live, curves))
    save_trained(Path(f"data/models/{name}"), trained)
    write_csv(out / "curves.csv", trained.curves)
    print_note_on_processor(out / "environment.json", environment)  # DVC leaves the earlier one until it is replaced
    write_json(out / "environment.json", environment)
    shutil.rmtree(resume_dir, ignore_errors=True)


if __name__ == "__main__":
    run(main)
