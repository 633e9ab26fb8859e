"""Two real Ray nodes on this machine, with token authentication; workers are killed, then a node, then the head."""

import http.server
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
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
from conftest import ROOT
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nuclei.attribution import attribute, occlusion
from nuclei.cluster import map_crops, ray_cluster, stream
from nuclei.crops import Labelled
from nuclei.device import Place
from nuclei.errors import InputError, run
from nuclei.fit import Recipe, fit
from nuclei.models import Model, SmallCNN, build
from nuclei.params import load_params
from nuclei.predict import predict_logits
from nuclei.search import draw_trials, search
from nuclei.workers import fit_anywhere

PARAMS = load_params(Path("params.yaml"))
TRAIN = PARAMS.train.model_copy(update={"precision": "float32"})
SHAPE = SmallCNN(3, (4, 8, 8, 16), (16, 16), 0.3)
PLACE = Place("cpu", threads=1)
CPU = torch.device("cpu")


# A node that does not answer is taken for dead after two seconds, not half a minute. Workers are not slowed down, and
# none is started before it is needed: it would be one without our package.
QUICK = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


def without(folders: Sequence[Path]) -> list[str]:
    """Return what to put before a command that is not to see the contents of `folders`; nothing where that is denied.

    Only root may, and not in every container.
    """
    script = 'while [ "$1" != -- ]; do mount -t tmpfs none "$1" && shift || exit; done; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, folders), "--"]
    there = shutil.which("unshare") and not subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode
    return command if there else []


class Node:
    """A Ray node of one CPU, with processes and a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, hidden: Sequence[Path] = ()):
        options = ["--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats", f"--temp-dir={folder}"]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*without(hidden), Path(sys.executable).parent / "ray", "start", "--block", *options, *arguments],
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
    """A head and other nodes; these see nothing of the project's files, nor of what the tests write."""

    def __init__(self, folder: Path, hidden: Sequence[Path]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.hidden, self.address = folder, hidden, f"127.0.0.1:{port}"
        self.head = Node(folder / "head", "--head", f"--port={port}", "--include-dashboard=false")
        self.others: list[Node] = []
        self.wait(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)

    def add(self) -> Node:
        node = Node(self.folder / f"node{len(self.others)}", f"--address={self.address}", hidden=self.hidden)
        self.others.append(node)
        return node

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not until():
            assert time.monotonic() < deadline, "\n".join(n.log.read_text() for n in [self.head, *self.others])
            time.sleep(0.1)

    def kill_at_work(self, node: Node, name: str, then: Callable[[], None] = lambda: None) -> threading.Thread:
        """Kill `node` as soon as it has a worker that Ray calls `name`; join what is returned."""

        def kill():
            self.wait(lambda: node.workers(name))
            node.kill()
            then()

        killer = threading.Thread(target=kill)
        killer.start()
        return killer

    def alive(self) -> int:
        return sum(node["Alive"] for node in ray.nodes())

    def head_id(self) -> str:
        (head,) = [node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]
        return head

    def keep_head_busy(self, until: Callable[[], bool]) -> ray.ObjectRef:
        """Take the head's CPU, from now until something holds; return what to wait for."""
        begun = self.folder / f"busy{time.monotonic_ns()}"

        @ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(self.head_id(), soft=False))
        def work():
            begun.touch()
            while not until():
                time.sleep(0.1)

        working = work.remote()
        self.wait(begun.exists)
        return working

    def second(self) -> Node:
        """Return a node beside the head; start one where there is none."""
        map_crops(lambda crops, device: crops, [np.zeros(1)], PLACE)  # joins
        running = [node for node in self.others if node.process.poll() is None]
        self.wait(lambda: self.alive() == 1 + len(running))  # Ray has missed those that were killed
        node = running[0] if running else self.add()
        self.wait(lambda: self.alive() == 2)
        return node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    ray.shutdown()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        reset_auth_token_state()  # Ray may have been imported before
        cluster = Cluster(Path(folder), [ROOT / "nuclei", tmp_path_factory.getbasetemp()])
        cluster.add()
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


def start_here(monkeypatch, capsys) -> str:
    """Return the one line that a program ends with, with exit code 1, when Ray does not start on this machine."""
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def main():
        with ray_cluster():
            raise AssertionError("Ray has started")

    with pytest.raises(SystemExit, match=r"^1$"):
        run(main)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(("folder", "reason"), [("x" * 100, "path length"), ("file/below", "Not a directory")])
def test_a_machine_on_which_ray_cannot_write_gets_one_line(tmp_path, monkeypatch, capsys, folder, reason):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / folder))
    said = start_here(monkeypatch, capsys)
    assert said.startswith("error: Ray does not start on this machine: ") and reason in said and "RAY_TMPDIR" in said


@pytest.mark.parametrize("port", ["taken", "70000", "http"])
def test_a_port_that_ray_cannot_have_gets_one_line(monkeypatch, capsys, port):
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", port)
        said = start_here(monkeypatch, capsys)
    assert said.startswith(f"error: RAY_GCS_SERVER_PORT: Ray cannot use port {port} (")


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
        attribute,
        Model(network, SHAPE),
        methods={"occlusion": partial(occlusion, window=50, stride=50, precision="float32")},
    )
    arrays = [crops[:300], np.arange(300) % 4, np.arange(300)]
    maps = map_crops(explain, arrays, PLACE)
    assert np.array_equal(maps["occlusion"], explain(*arrays, device=CPU)["occlusion"])


def test_what_a_worker_says_of_bad_input_reaches_the_user(cluster):
    def refuse(crops, device):
        raise InputError("crops: none is good")

    with pytest.raises(InputError, match=r"^crops: none is good$"):
        map_crops(refuse, [np.zeros(3)], PLACE)


def test_predictions_go_on_when_a_machine_is_lost(cluster, tmp_path):
    second, head, lost = cluster.second(), cluster.head_id(), tmp_path / "lost"
    network, crops = build(SHAPE, seed=0), labelled(160).crops
    predict = partial(predict_logits, network, precision="float32")

    def predict_then(block, device):  # the second never comes to it, the head only then
        while ray.get_runtime_context().get_node_id() != head or not lost.exists():
            time.sleep(0.1)
        return predict(block, device=device)

    killer = cluster.kill_at_work(second, "ray::_compute", then=lost.touch)
    logits = list(stream(predict_then, ([block] for block in np.split(crops, 10)), PLACE))
    killer.join()
    assert np.array_equal(np.concatenate(logits), np.concatenate([predict(b, device=CPU) for b in np.split(crops, 10)]))


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


def test_a_search_that_loses_a_machine_finds_the_same(cluster, tmp_path):
    second = cluster.second()
    settings = PARAMS.tune.model_copy(update={"trials": 3, "epochs": [1], "batch_size": [8], "widths": [8, 16]})
    train, validation = labelled(32), labelled(16, seed=1)
    lost = tmp_path / "lost"
    busy = cluster.keep_head_busy(until=lost.exists)  # the first trial goes to the second
    killer = cluster.kill_at_work(second, "ray::ImplicitFunc", then=lost.touch)
    table = search({"cnn": SHAPE}, {}, train, validation, TRAIN, settings, "cpu", tmp_path)["cnn"]
    killer.join()
    ray.get(busy)
    drawn = {trial["trial"]: trial for trial in draw_trials("cnn", settings, tune_widths=True)}
    for row in table.to_dict("records"):
        trial = drawn[row["trial"]]
        shape = replace(SHAPE, widths=(trial["width_1"], trial["width_2"]))
        recipe = Recipe(trial["lr"], 8, row["epochs"], settings.seed, ema=0.0, train=TRAIN)
        *_, last = fit(build(shape, settings.seed), train, validation, recipe, CPU)
        assert row["validation_loss"] == pytest.approx(last.scores["validation_loss"], rel=1e-6)
    assert sorted(table["trial"]) == [0, 1, 2] and table["validation_loss"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            replace(PLACE, threads=3),
            "^threads and device: 3 CPUs and 0 GPUs on one machine asked for, Ray has those with 1 CPUs and ",
        ),
        (
            replace(PLACE, device="cuda"),
            "^threads and device: 1 CPUs and 1 GPUs on one machine asked for, Ray has those with 1 CPUs and 0 ",
        ),
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


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999", "web server", "ray://127.0.0.1:1"]
)
def test_an_address_without_ray_is_an_error_at_once(cluster, address):
    ray.shutdown()
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        if address == "web server":
            address = f"127.0.0.1:{server.server_port}"
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(InputError, match=f"^RAY_ADDRESS: (no Ray at )?{address} "),
        ):
            patch.setenv("RAY_ADDRESS", address)
            map_crops(lambda crops, device: crops, [np.zeros(1)], PLACE)


def test_without_the_token_nobody_joins(cluster, monkeypatch):
    ray.shutdown()
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    reset_auth_token_state()
    try:
        with pytest.raises(InputError, match=f"^RAY_ADDRESS: cannot join {cluster.address}: .*token"):
            map_crops(lambda crops, device: crops, [np.zeros(1)], PLACE)
    finally:
        monkeypatch.undo()
        reset_auth_token_state()


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
