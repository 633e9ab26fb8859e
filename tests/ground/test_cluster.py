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
from coloured import coloured
from PIL import Image
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from references import NO_REFERENCE
from tissue import tissue, write_model

from nuclei.cli import act
from nuclei.cluster import has_room_for_one, map_crops, ray_cluster, stream, stream_tasks
from nuclei.device import Compute
from nuclei.errors import InputError, run
from nuclei.explanation.attribution import attribute, occlusion
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import load_params
from nuclei.task import COLON
from nuclei.training.loop import TrainConfig, fit
from nuclei.training.tuning import SearchData, draw_trials, rung_steps, search
from tools.clone import ROOT

PARAMS = load_params(Path("params.yaml"))
PARAMS = PARAMS.model_copy(
    update={
        "device": "cpu",
        "cnn": PARAMS.cnn.model_copy(update={"filters": [4, 8, 8, 16]}),
        "train": PARAMS.train.model_copy(update={"precision": "float32"}),
        "train_cnn": PARAMS.train_cnn.model_copy(update={"epochs": 2}),
        "tune": PARAMS.tune.model_copy(
            update={"trials": 3, "rungs": [0.5], "batch_size": [8], "widths": [8, 16], "cpus_per_trial": 1}
        ),
    }
)
SHAPE = SmallCNN(3, (4, 8, 8, 16), (16, 16), 0.3)
COMPUTE = Compute("cpu", threads=1)
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
        map_crops(lambda crops, device: crops, [np.zeros(1)], COMPUTE)  # joins
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
        numbers, paths, nodes = map_crops(where, [np.arange(1000)], COMPUTE).T
        assert numbers.astype(int).tolist() == list(range(1000))
        found.update(zip(nodes, paths, strict=True))
        return {node for node, _ in found} == {node["NodeID"] for node in ray.nodes()}

    cluster.wait(found_both)
    for _, path in found:  # of the copy that Ray brought, not of this working tree
        assert Path(path).is_relative_to(cluster.folder)


def test_predictions_and_heat_maps_of_a_cluster_are_those_of_one_machine(cluster, tmp_path):
    cluster.second()
    network = build(SHAPE, seed=0)
    np.save(tmp_path / "crops.npy", coloured(600).crops)
    crops = np.load(tmp_path / "crops.npy", mmap_mode="r")
    predict = partial(predict_logits, network, precision="float32", tta=True)
    assert np.array_equal(map_crops(predict, [crops], COMPUTE), predict(crops, device=CPU))

    model = Model("cnn", network, SHAPE, Calibration(), Calibration(), NO_REFERENCE)
    explain = partial(
        attribute, model, methods={"occlusion": partial(occlusion, window=50, stride=50, precision="float32")}
    )
    arrays = [crops[:300], np.arange(300) % 4, np.arange(300)]
    maps = map_crops(explain, arrays, COMPUTE)
    assert np.array_equal(maps["occlusion"], explain(*arrays, device=CPU)["occlusion"])


def test_what_a_worker_says_of_bad_input_reaches_the_user(cluster):
    def refuse(crops, device):
        raise InputError("crops: none is good")

    with pytest.raises(InputError, match=r"^crops: none is good$"):
        map_crops(refuse, [np.zeros(3)], COMPUTE)


def test_predictions_go_on_when_a_machine_is_lost(cluster, tmp_path):
    second, head, lost = cluster.second(), cluster.head_id(), tmp_path / "lost"
    network, crops = build(SHAPE, seed=0), coloured(160).crops
    predict = partial(predict_logits, network, precision="float32")

    def predict_then(block, device):  # the second never comes to it, the head only then
        while ray.get_runtime_context().get_node_id() != head or not lost.exists():
            time.sleep(0.1)
        return predict(block, device=device)

    killer = cluster.kill_at_work(second, "ray::_run_block", then=lost.touch)
    logits = list(stream(predict_then, ([block] for block in np.split(crops, 10)), COMPUTE))
    killer.join()
    assert np.array_equal(np.concatenate(logits), np.concatenate([predict(b, device=CPU) for b in np.split(crops, 10)]))


@pytest.mark.parametrize(
    ("cores", "gpus", "address", "threads", "device", "expected"),
    [
        (1, 0, "", 1, "cpu", True),
        (4, 0, "", 4, "auto", True),
        (4, 0, "", 3, "cpu", True),
        (4, 0, "", 2, "auto", False),
        (4, 0, "", 8, "cpu", False),  # Ray refuses it
        (8, 1, "", 1, "auto", True),
        (8, 1, "", 1, "cuda", True),
        (8, 1, "", 1, "cpu", False),
        (8, 1, "", 9, "cuda", False),
        (8, 2, "", 1, "auto", False),
        (1, 1, "192.0.2.1:6379", 1, "auto", False),
    ],
)
def test_ray_spreads_nothing_where_one_process_fills_this_machine(
    cores, gpus, address, threads, device, expected, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(nuclei.cluster, "usable_threads", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert has_room_for_one(Compute(device, threads)) is expected


def test_tasks_run_side_by_side_on_all_machines_each_its_items_in_order(cluster):
    cluster.second()
    folder = cluster.folder / "begun"  # both machines see it
    folder.mkdir()

    def work(shared, key, argument, compute):
        yield shared, argument, compute, ray.get_runtime_context().get_node_id()
        (folder / str(key)).touch()
        while len(list(folder.iterdir())) < 2:  # of the first two, each waits for the other
            time.sleep(0.05)
        yield 1
        yield 2

    tasks = {key: lambda key=key: (f"argument {key}",) for key in range(5)}
    items: dict[int, list] = {key: [] for key in tasks}
    for key, item in stream_tasks(work, ("shared",), tasks, COMPUTE):
        items[key].append(item)
    for key, (first, *others) in items.items():
        assert first[:3] == ("shared", f"argument {key}", COMPUTE) and others == [1, 2]
    assert {first[3] for first, *_ in items.values()} == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_what_a_task_says_of_bad_input_reaches_the_user_and_ends_the_others(cluster):
    cluster.second()

    def work(key, compute):
        if key == "bad":
            raise InputError("crops: none is good")
        for number in range(6000):
            time.sleep(0.1)
            yield number

    received = []
    with pytest.raises(InputError, match=r"^crops: none is good$"):
        for key, _ in stream_tasks(work, (), {"good": tuple, "bad": tuple, "later": tuple}, COMPUTE):
            received.append(key)
    assert set(received) <= {"good"}
    running = [node for node in [cluster.head, *cluster.others] if node.process.poll() is None]
    cluster.wait(lambda: not any(node.workers("ray::_run_generator") for node in running))


def test_a_mistake_in_a_task_is_no_bad_input(cluster):
    def work(key, compute):
        yield 1 / 0

    with pytest.raises(ray.exceptions.RayTaskError, match="ZeroDivisionError"):
        list(stream_tasks(work, (), {0: tuple}, COMPUTE))


def test_a_task_whose_machine_is_lost_starts_again_with_its_arguments_of_that_time(cluster, tmp_path, capsys):
    second, head, lost = cluster.second(), cluster.head_id(), tmp_path / "lost"
    asked = {"a": [], "b": []}

    def work(key, attempt, compute):  # on the second machine it never ends
        yield attempt, 0
        while ray.get_runtime_context().get_node_id() != head or not lost.exists():
            time.sleep(0.1)
        yield attempt, 1

    def arguments(key):
        def ask():
            asked[key].append(len(asked[key]))
            return (len(asked[key]),)

        return ask

    killer = cluster.kill_at_work(second, "ray::_run_generator", then=lost.touch)
    items = list(stream_tasks(work, (), {key: arguments(key) for key in asked}, COMPUTE))
    killer.join()
    (again,) = (key for key, times in asked.items() if len(times) == 2)
    (other,) = set(asked) - {again}
    assert [item for key, item in items if key == other] == [(1, 0), (1, 1)]
    assert [item for key, item in items if key == again][-2:] == [(2, 0), (2, 1)]
    assert f"a worker was lost: {again} goes on elsewhere as soon as there is room" in capsys.readouterr().out


def test_a_task_that_ends_every_worker_is_given_up(cluster, capsys, monkeypatch):
    monkeypatch.setattr(nuclei.cluster, "ATTEMPTS", 2)  # each takes seconds
    cluster.second()

    def work(key, compute):
        os._exit(1)
        yield

    with pytest.raises(InputError, match=r"^Ray's workers end, or cannot start, again and again \("):
        list(stream_tasks(work, (), {"bad": tuple}, COMPUTE))
    assert capsys.readouterr().out.count("a worker was lost: bad") == 1


def test_a_task_that_ends_every_worker_need_not_stop_the_others(cluster, monkeypatch):
    monkeypatch.setattr(nuclei.cluster, "ATTEMPTS", 1)
    cluster.second()

    def work(key, compute):
        if key == "bad":
            os._exit(1)
        yield key

    reasons = []
    items = stream_tasks(work, (), {"bad": tuple, "good": tuple}, COMPUTE, lambda key, reason: reasons.append(reason))
    assert sorted(items, key=str) == [("bad", None), ("good", "good")]
    assert len(reasons) == 1 and "The worker died" in reasons[0]


def test_slides_are_classified_by_the_cluster_and_those_that_fail_stop_no_others(cluster, monkeypatch, capsys):
    cluster.second()
    folder = cluster.folder / "shared"  # all machines see it
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_model(Path("model.safetensors"))
    for number in range(4):
        Image.fromarray(tissue()[0][:, 100 * number : 100 * number + 400]).save(f"{number}.png", compress_level=1)
    for number in range(5):
        Path(f"{number}.csv").write_text(f"x,y\n100,{100 + number}\n")
    Path("4.png").write_bytes(b"no picture")
    slides = [f"{number}.png" for number in range(5)]
    words = ["predict", "model.safetensors", *slides, "--nuclei", ".", "--threads", "1", "--no-tta"]
    with pytest.raises(InputError, match=r"^1 of 5 inputs were not classified: see above$"):
        act([*words, "--out", "spread"])
    said = capsys.readouterr()
    assert said.out.count("; written: ") == 4 and said.err.count("taken for 0.25 microns per pixel") == 4
    assert "4.png: not a PNG, JPEG or TIFF" in said.err
    monkeypatch.delenv("RAY_ADDRESS")
    act([*(word for word in words if word != "4.png"), "--out", "here"])
    names = sorted(path.name for path in Path("here").iterdir())
    assert len(names) == 16 and sorted(path.name for path in Path("spread").iterdir()) == names
    for name in names:
        assert Path("spread", name).read_bytes() == Path("here", name).read_bytes()


def test_a_search_that_loses_a_machine_finds_the_same(cluster, tmp_path):
    second = cluster.second()
    data = SearchData(PARAMS, {}, coloured(32), coloured(16, seed=1))
    lost = tmp_path / "lost"
    busy = cluster.keep_head_busy(until=lost.exists)  # the first trial goes to the second
    killer = cluster.kill_at_work(second, "ray::ImplicitFunc", then=lost.touch)
    table = search(["cnn"], data, tmp_path)["cnn"]
    killer.join()
    ray.get(busy)
    drawn = {trial["trial"]: trial for trial in draw_trials("cnn", PARAMS)}
    (steps,) = rung_steps("cnn", 32, PARAMS)
    for row in table.to_dict("records"):
        trial = drawn[row["trial"]]
        network = build(SmallCNN.from_params(PARAMS, COLON, trial), PARAMS.tune.seed)
        config = TrainConfig(trial["lr"], 8, steps, PARAMS.tune.seed, ema=0.0, train=PARAMS.train)
        *_, last = fit(network, data.train_set, data.inner_set, config, CPU)
        assert row["heldout_loss"] == pytest.approx(last.scores["heldout_loss"], rel=1e-6)
    assert sorted(table["trial"]) == [0, 1, 2] and table["heldout_loss"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            replace(COMPUTE, threads=3),
            "^threads and device: 3 CPUs and 0 GPUs on one machine asked for, Ray has those with 1 CPUs and ",
        ),
        (
            replace(COMPUTE, device="cuda"),
            "^threads and device: 1 CPUs and 1 GPUs on one machine asked for, Ray has those with 1 CPUs and 0 ",
        ),
    ],
    ids=["CPUs", "GPUs"],
)
def test_more_than_the_cluster_has_is_an_error_that_says_what_it_has(cluster, compute, message):
    with pytest.raises(InputError, match=message):
        list(stream(lambda crops, device: crops, [[np.zeros(1)]], compute))
    with pytest.raises(InputError, match=message):
        list(stream_tasks(iter, (), {0: tuple}, compute))


def test_a_search_on_gpus_that_are_not_there_is_an_error(cluster, tmp_path):
    tune = PARAMS.tune.model_copy(update={"gpus_per_trial": 0.5})
    data = SearchData(PARAMS.model_copy(update={"tune": tune}), {}, coloured(8), coloured(8))
    with pytest.raises(InputError, match=r"gpus_per_trial: 1 CPUs and 0.5 GPUs on one machine asked for"):
        search(["cnn"], data, tmp_path)


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
            map_crops(lambda crops, device: crops, [np.zeros(1)], COMPUTE)


def test_without_the_token_nobody_joins(cluster, monkeypatch):
    ray.shutdown()
    monkeypatch.setattr(ray._private.ray_constants, "NUM_REDIS_GET_RETRIES", 1)  # as where RAY_ADDRESS is set before
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    reset_auth_token_state()
    try:
        with pytest.raises(InputError, match=f"^RAY_ADDRESS: cannot join {cluster.address}: .*token"):
            map_crops(lambda crops, device: crops, [np.zeros(1)], COMPUTE)
    finally:
        monkeypatch.undo()
        reset_auth_token_state()


def test_a_ray_of_this_machine_has_the_usable_cores_listens_on_loopback_only_and_hides_its_token(tmp_path):
    program = """
import ipaddress
from nuclei.cluster import ray_cluster
import psutil, ray
psutil.Process().cpu_affinity([psutil.Process().cpu_affinity()[0]])
with ray_cluster():
    assert ray.cluster_resources()["CPU"] == 1
    ray.get(ray.remote(lambda: 1).remote())
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status == "LISTEN":
                address = ipaddress.ip_address(connection.laddr.ip)
                print(process.name(), (getattr(address, "ipv4_mapped", None) or address).is_loopback)
"""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=outside | home, capture_output=True, text=True, check=True
    )
    listening = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {local for _, local in listening} == {"True"}
    token = tmp_path / ".ray/auth_token"
    assert token.stat().st_mode & 0o077 == 0 and token.parent.stat().st_mode & 0o077 == 0


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
    cluster.map_crops(wait, [np.zeros(1)], cluster.Compute("cpu", 1))
errors.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as driver:
        assert driver.stdout.readline() == "joined\n"
        cluster.head.kill()
        _, errors = driver.communicate(timeout=120)
    assert errors.startswith("error: the head of the Ray cluster") and errors.count("\n") == 1
    assert driver.returncode == 1
