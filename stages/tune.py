"""Search the hyper-parameters of all networks."""

import shutil
from pathlib import Path

from safetensors.torch import load_file

from nuclei.crops import open_folds
from nuclei.errors import run
from nuclei.files import write_csv, write_json
from nuclei.params import load_params
from nuclei.task import NETWORKS
from nuclei.training.tuning import SearchData, inner_split, search, winner


def main() -> None:
    params = load_params(Path("params.yaml"))
    crops = open_folds(Path("data/crops"), Path("data/split.csv"))
    resume_dir = Path("data/.resume/tune")

    data = SearchData(params, load_file("data/weights/pretrained.safetensors"), *inner_split(crops))
    for name, trials in search(list(NETWORKS), data, resume_dir).items():
        tuned = winner(trials, params)
        print(f"{name}: {tuned}")
        write_json(Path(f"reports/tune/{name}/tuned.json"), tuned)
        write_csv(Path(f"reports/tune/{name}/trials.csv"), trials)
    shutil.rmtree(resume_dir, ignore_errors=True)


if __name__ == "__main__":
    run(main)
