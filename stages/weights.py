"""Bring the weights that ResNet18 starts from."""

from pathlib import Path

from nuclei.data.pretrained import check_trained, download_imagenet, read_weights
from nuclei.errors import InputError, run
from nuclei.files import write_json
from nuclei.params import load_params
from nuclei.tensors import write_tensors


def main() -> None:
    params = load_params(Path("params.yaml"))
    asked = used = params.train_resnet.weights
    if asked == "none":
        weights = {}
    elif asked == "imagenet":
        try:
            weights = download_imagenet()
        except OSError as error:
            if params.data.raw != "data/sample":
                raise InputError(
                    f"train_resnet.weights: imagenet cannot be downloaded ({error}); put the file here by other means "
                    "and name it (-S train_resnet.weights=FILE), or start from random weights "
                    "(-S train_resnet.weights=none)"
                ) from None
            print("WARNING: no ImageNet weights can be downloaded: on the sample, ResNet18 starts from random ones")
            weights, used = {}, "none"
        else:
            check_trained(weights, "imagenet")
    else:
        weights = read_weights(Path(asked))
    write_tensors(Path("data/weights/pretrained.safetensors"), weights)
    write_json(Path("reports/weights/weights.json"), {"asked": asked, "used": used})


if __name__ == "__main__":
    run(main)
