"""Bring the weights that the pretrained network starts from."""

from pathlib import Path

from nuclei.data.pretrained import obtain_weights
from nuclei.errors import run
from nuclei.files import write_json
from nuclei.params import load_params
from nuclei.tensors import write_tensors


def main() -> None:
    params = load_params(Path("params.yaml"))
    asked = params.train_resnet.weights

    weights, used = obtain_weights(asked, Path("data/pretrained"), may_go_without=params.on_sample)
    write_tensors(Path("data/weights/pretrained.safetensors"), weights)
    write_json(Path("reports/weights/weights.json"), {"asked": asked, "used": used})


if __name__ == "__main__":
    run(main)
