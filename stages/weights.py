"""Bring the weights that the pretrained network starts from."""

from pathlib import Path

from nuclei.errors import InputError, run
from nuclei.files import write_json
from nuclei.models.adapted import has_feature_maps
from nuclei.models.pretrained import obtain_weights
from nuclei.params import load_params
from nuclei.tensors import write_tensors


def main() -> None:
    params = load_params(Path("params.yaml"))
    asked, backbone = params.train_resnet.weights, params.resnet.backbone
    if "layer_cam" in params.explain.methods and not has_feature_maps(backbone):  # now, not after hours of training
        raise InputError(
            f"explain.methods: layer_cam needs feature maps, which {backbone} has none of: leave it out "
            "(-S 'explain.methods=[occlusion,integrated_gradients]')"
        )
    may_go_without = params.on_sample and not params.resnet.frozen  # frozen random weights would never learn
    weights = obtain_weights(asked, Path("data/pretrained"), backbone, may_go_without)
    write_tensors(Path("data/weights/pretrained.safetensors"), weights.tensors)
    written = {"asked": asked, "backbone": backbone, "used": weights.used, "source": weights.source}
    write_json(Path("reports/weights/weights.json"), written)


if __name__ == "__main__":
    run(main)
