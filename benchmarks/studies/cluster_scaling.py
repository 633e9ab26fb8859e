"""What a second node brings: `python -m benchmarks.studies.cluster_scaling`. See docs/cluster.md.

Two Ray nodes of one CPU each, on this machine, that talk over the network interface. One is there all the time, the
other comes and goes, so that the measurements with one and with two take turns.
"""

import os
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median

# Read when Ray is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}

# isort: split
import numpy as np
from ray.cluster_utils import Cluster
from tqdm import tqdm

from benchmarks.markdown import markdown_table
from benchmarks.speed.training import BATCH_SIZE, SHAPES, config
from benchmarks.speed.tuning import search_params
from benchmarks.workspace import params
from nuclei.cluster import CROPS_PER_TASK, map_crops, ray_cluster
from nuclei.crops import FoldedCrops, LabelledCrops, Places
from nuclei.device import Compute
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.training.train import NetworkConfig, train_folds
from nuclei.training.tuning import SearchData, search

REPEATS = 3
PREDICTED = 4 * CROPS_PER_TASK  # crops
TRAINED = 8 * BATCH_SIZE  # crops
FOLDS = 3
SEARCHED = 16 * BATCH_SIZE  # crops
TRIALS = 4


def noise(n: int) -> LabelledCrops:
    """Noise: nothing here depends on what a crop shows."""
    rng = np.random.default_rng(0)
    return LabelledCrops(rng.integers(0, 256, (n, 100, 100, 3), np.uint8), np.arange(n) % 4)


def predict(compute: Compute) -> float:
    function = partial(predict_logits, build(SHAPES["resnet"], seed=0), precision=params().train.precision)
    crops = noise(PREDICTED).crops
    return seconds(lambda: map_crops(function, [crops], compute))


def train(compute: Compute) -> float:
    data, folds = noise(TRAINED), np.arange(TRAINED) % FOLDS
    crops = FoldedCrops(data, folds, folds, list(range(FOLDS)), Places(folds, *np.zeros((2, TRAINED))))
    network = NetworkConfig("resnet", SHAPES["resnet"], pretrained={}, epochs=1, config=config(TRAINED))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        return seconds(lambda: train_folds(network, crops, compute, Path(folder)))


def tune(crops: int, compute: Compute) -> float:
    data = SearchData(search_params(compute.device, TRIALS), {}, noise(crops), noise(8))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        return seconds(lambda: search(["cnn"], data, Path(folder)))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


WORK = {
    f"predict {PREDICTED:,} crops, ResNet18": predict,
    f"train {FOLDS + 1} networks for an epoch of {TRAINED} crops, ResNet18": train,
    f"search, {TRIALS} trials of {SEARCHED:,} crops, CNN": partial(tune, SEARCHED),
    f"search, {TRIALS} trials of next to nothing": partial(tune, 8),
}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    times: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in WORK}
    try:
        with ray_cluster():
            for _ in tqdm(range(REPEATS), unit="round"):
                for nodes in (1, 2):
                    other = cluster.add_node(num_cpus=1) if nodes == 2 else None
                    cluster.wait_for_nodes()
                    compute = Compute("cpu", threads=1)
                    predict(compute)  # starts the workers
                    for name, work in WORK.items():
                        times[name][nodes].append(work(compute))
                cluster.remove_node(other)
    finally:
        cluster.shutdown()
    print(markdown_table(["", "1 node", "2 nodes", "faster", "efficiency"], map(describe, times, times.values())))


def describe(name: str, seconds_of_nodes: dict[int, list[float]]) -> list[str]:
    """Return a row of the table."""
    before, after = median(seconds_of_nodes[1]), median(seconds_of_nodes[2])
    return [name, f"{before:.1f} s", f"{after:.1f} s", f"{before / after:.2f}", f"{before / after / 2:.0%}"]


if __name__ == "__main__":
    main()
