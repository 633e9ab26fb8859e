"""Bring the weights that the pretrained network starts from."""

from pathlib import Path

from nuclei.errors import run
from nuclei.files import write_json
from nuclei.models.pretrained import obtain_weights
from nuclei.params import load_params
from nuclei.tensors import write_tensors


def main() -> None:
    params = load_params(Path("params.yaml"))
    asked = params.train_resnet.weights

    folder, backbone = Path("data/pretrained"), params.resnet.backbone
    may_go_without = params.on_sample and not params.resnet.frozen  # frozen random weights would never learn
    weights = obtain_weights(asked, folder, backbone, may_go_without)
    write_tensors(Path("data/weights/pretrained.safetensors"), weights.tensors)
    written = {"asked": asked, "backbone": backbone, "used": weights.used, "source": weights.source}
    write_json(Path("reports/weights/weights.json"), written)


if __name__ == "__main__":
    run(main)
