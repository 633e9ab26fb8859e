"""Two real Ray nodes on this machine, with token authentication; workers are killed, then a node, then the head."""

import http.server
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import nuclei.cluster

# Before Ray: it sets what Ray reads when it is imported.
# isort: split
import numpy as np
import psutil
import pytest
import ray
import torch
from ray._private.authentication_test_utils import reset_auth_token_state

from nuclei.attribution import attribute, occlusion
from nuclei.cluster import map_crops, stream
from nuclei.crops import Labelled
from nuclei.device import Place
from nuclei.errors import InputError
from nuclei.fit import Recipe, fit
from nuclei.models import SmallCNN, build
from nuclei.params import load_params
from nuclei.predict import predict_logits
from nuclei.search import draw_trials, search
from nuclei.workers import fit_anywhere

PARAMS = load_params(Path("params.yaml"))
TRAIN = PARAMS.train.model_copy(update={"precision": "float32"})
SHAPE = SmallCNN(3, (4, 8, 8, 16), (16, 16), 0.3)
PLACE = Place("cpu", threads=1)
CPU = torch.device("cpu")


# A node that does not answer is taken for dead after two seconds, not half a minute. Workers are not slowed down.
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "500", "RAY_worker_niceness": "0"}


class Node:
    """A Ray node of one CPU, with processes and a folder of its own."""

    def __init__(self, folder: Path, *arguments: str):
        options = ["--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats", f"--temp-dir={folder}"]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "ray", "start", "--block", *options, *arguments],
                env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK,
                cwd=folder.parent,
                stdout=log,
                stderr=log,
            )

    def workers(self, name: str) -> list[psutil.Process]:
        """The node's processes that Ray calls `name`, such as ray::fit."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found += [process] if name in " ".join(process.cmdline()) else []
            except psutil.NoSuchProcess:  # has ended since
                continue
        return found

    def kill(self) -> None:
        """End all its processes at once, as a power cut would."""
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()
            self.process.wait()


class Cluster:
    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.address = folder, f"127.0.0.1:{port}"
        self.head = Node(folder / "head", "--head", f"--port={port}", "--include-dashboard=false")
        self.others: list[Node] = []
        self.wait(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)

    def add(self) -> Node:
        self.others.append(Node(self.folder / f"node{len(self.others)}", f"--address={self.address}"))
        return self.others[-1]

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not until():
            assert time.monotonic() < deadline, "\n".join(n.log.read_text() for n in [self.head, *self.others])
            time.sleep(0.1)

    def second(self) -> Node:
        """Return a node beside the head; start one where there is none."""
        alive = [node for node in self.others if node.process.poll() is None]
        node = alive[0] if alive else self.add()
        map_crops(lambda crops, device: crops, [np.zeros(1)], PLACE)  # joins
        self.wait(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        return node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    ray.shutdown()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        reset_auth_token_state()  # Ray may have been imported before
        cluster = Cluster(tmp_path_factory.mktemp("ray"))
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            ray.shutdown()
            for node in [*cluster.others, cluster.head]:
                node.kill()
    reset_auth_token_state()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def labelled(n, seed=0):
    """Crops whose colour tells the class, through noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    noise = rng.normal(0, 60, (n, 100, 100, 3))
    return Labelled((colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels)


def test_blocks_go_to_both_machines_and_the_package_with_them(cluster):
    cluster.second()

    def where(numbers, device):
        time.sleep(0.1)
        return np.array([[number, nuclei.__file__, ray.get_runtime_context().get_node_id()] for number in numbers])

    found = set()

    def found_both():  # a machine takes seconds to start its first worker
        numbers, paths, nodes = map_crops(where, [np.arange(1000)], PLACE).T
        assert numbers.astype(int).tolist() == list(range(1000))
        found.update(zip(nodes, paths, strict=True))
        return {node for node, _ in found} == {node["NodeID"] for node in ray.nodes()}

    cluster.wait(found_both)
    for _, path in found:  # of the copy that Ray brought, not of this working tree
        assert Path(path).is_relative_to(cluster.folder)


def test_predictions_and_heat_maps_of_a_cluster_are_those_of_one_machine(cluster, tmp_path):
    cluster.second()
    network = build(SHAPE, seed=0)
    np.save(tmp_path / "crops.npy", labelled(600).crops)
    crops = np.load(tmp_path / "crops.npy", mmap_mode="r")
    predict = partial(predict_logits, network, precision="float32", tta=True)
    assert np.array_equal(map_crops(predict, [crops], PLACE), predict(crops, device=CPU))

    explain = partial(
        attribute, network, methods={"occlusion": partial(occlusion, window=50, stride=50, precision="float32")}
    )
    arrays = [crops[:300], np.arange(300) % 4, np.arange(300)]
    maps = map_crops(explain, arrays, PLACE)
    assert np.array_equal(maps["occlusion"], explain(*arrays, device=CPU)["occlusion"])


def test_two_workers_train_what_one_trains_even_if_one_is_killed(cluster, capsys):
    second = cluster.second()
    train, validation = labelled(62), labelled(21, seed=1)  # batches and folds that two cannot share evenly
    recipe = Recipe(0.01, 15, epochs=3, seed=0, ema=0.5, train=TRAIN.model_copy(update={"balance": "loss"}))
    alone = list(fit(build(SHAPE, 0), train, validation, recipe, CPU))
    epochs = fit_anywhere(build(SHAPE, 0), train, validation, recipe, replace(PLACE, workers=2), "cnn")
    together = [next(epochs)]
    (worker,) = second.workers("ray::_Worker")
    worker.kill()
    together += epochs
    for one, other in zip(alone, together, strict=True):
        assert other.scores == pytest.approx(one.scores, rel=1e-4)
        for name, weights in one.weights.items():
            torch.testing.assert_close(other.weights[name], weights, rtol=1e-3, atol=1e-4)
    said = [line[:14] for line in capsys.readouterr().out.splitlines() if "raylet" not in line]  # Ray's own remark
    assert said == ["cnn: epoch 1/3", "a worker was l", "cnn: epoch 2/3", "cnn: epoch 3/3"]


def test_a_search_that_loses_a_worker_and_a_machine_finds_the_same(cluster, tmp_path):
    second = cluster.second()
    settings = PARAMS.tune.model_copy(update={"trials": 4, "epochs": [1, 2], "batch_size": [8], "widths": [8, 16]})
    train, validation = labelled(32), labelled(16, seed=1)
    killed = []

    def kill_both():
        for node, kill in ((cluster.head, lambda worker: worker.kill()), (second, lambda worker: second.kill())):
            cluster.wait(lambda node=node: node.workers("ray::ImplicitFunc"))
            kill(node.workers("ray::ImplicitFunc")[0])
            killed.append(node)

    killer = threading.Thread(target=kill_both)
    killer.start()
    table = search({"cnn": SHAPE}, {}, train, validation, TRAIN, settings, "cpu", tmp_path)["cnn"]
    killer.join()
    assert killed == [cluster.head, second]
    assert table["rung"].tolist() == [1, 1, 0, 0, 0, 0]
    drawn = {trial["trial"]: trial for trial in draw_trials("cnn", settings, tune_widths=True)}
    for row in table.to_dict("records"):
        trial = drawn[row["trial"]]
        shape = replace(SHAPE, widths=(trial["width_1"], trial["width_2"]))
        recipe = Recipe(trial["lr"], 8, row["epochs"], settings.seed, ema=0.0, train=TRAIN)
        *_, last = fit(build(shape, settings.seed), train, validation, recipe, CPU)
        assert row["validation_loss"] == pytest.approx(last.scores["validation_loss"], rel=1e-6)
    for rung in (0, 1):
        assert table[table["rung"] == rung]["validation_loss"].is_monotonic_increasing


def test_predictions_go_on_when_a_machine_is_lost(cluster):
    second = cluster.second()
    network, crops = build(SHAPE, seed=0), labelled(160).crops
    predict = partial(predict_logits, network, precision="float32")

    def slowly(block, device):
        time.sleep(0.5)
        return predict(block, device=device)

    results = stream(slowly, ([block] for block in np.split(crops, 10)), PLACE)
    logits = [next(results)]
    cluster.wait(lambda: second.workers("ray::_compute"))
    second.kill()
    logits += results
    assert np.array_equal(np.concatenate(logits), np.concatenate([predict(b, device=CPU) for b in np.split(crops, 10)]))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (replace(PLACE, threads=3), "^threads: 3 CPUs and 0 GPUs on one machine asked for, Ray has .*: lower it$"),
        (replace(PLACE, device="cuda"), "^threads: 1 CPUs and 1 GPUs on one machine asked for, Ray has .*: lower it$"),
        (replace(PLACE, workers=7), "^workers: 7 of 1 CPUs .* asked for, Ray has room for [12]: lower it$"),
        (replace(PLACE, workers=9), "^workers: 9 cannot share 8 crops: lower it$"),
    ],
    ids=["CPUs", "GPUs", "workers", "more workers than crops"],
)
def test_more_than_the_cluster_has_is_an_error_that_says_what_it_has(cluster, place, message):
    recipe = Recipe(0.01, 8, epochs=1, seed=0, ema=0.0, train=TRAIN)
    with pytest.raises(InputError, match=message):
        next(fit_anywhere(build(SHAPE, 0), labelled(16), labelled(8), recipe, place))


def test_a_search_on_gpus_that_are_not_there_is_an_error(cluster, tmp_path):
    settings = PARAMS.tune.model_copy(update={"gpus_per_trial": 0.5})
    with pytest.raises(InputError, match=r"gpus_per_trial: 1 CPUs and 0.5 GPUs on one machine asked for"):
        search({"cnn": SHAPE}, {}, labelled(8), labelled(8), TRAIN, settings, "cpu", tmp_path)


def test_what_a_worker_says_of_bad_input_reaches_the_user(cluster):
    def refuse(crops, device):
        raise InputError("crops: none is good")

    with pytest.raises(InputError, match=r"^crops: none is good$"):
        map_crops(refuse, [np.zeros(3)], PLACE)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999", "web server"])
def test_an_address_without_ray_is_an_error_at_once(cluster, address):
    ray.shutdown()
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        if address == "web server":
            address = f"127.0.0.1:{server.server_port}"
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(InputError, match=f"^RAY_ADDRESS: no Ray at {address} "),
        ):
            patch.setenv("RAY_ADDRESS", address)
            map_crops(lambda crops, device: crops, [np.zeros(1)], PLACE)


def test_a_lost_head_ends_the_program_with_one_line(cluster):
    ray.shutdown()
    program = """
import time
from nuclei import cluster, errors
import numpy as np
cluster.HEAD_SILENT = cluster.WATCH = 0.1
def wait(crops, device):
    time.sleep(600)
def main():
    cluster._join()
    print("joined", flush=True)
    cluster.map_crops(wait, [np.zeros(1)], cluster.Place("cpu", 1))
errors.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as driver:
        assert driver.stdout.readline() == "joined\n"
        cluster.head.kill()
        _, errors = driver.communicate(timeout=120)
    assert errors.startswith("error: the head of the Ray cluster") and errors.count("\n") == 1
    assert driver.returncode == 1
