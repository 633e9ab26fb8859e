"""The Ray cluster that RAY_ADDRESS names, or a Ray of this machine, and work that is spread over it."""

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

import nuclei
from nuclei.cluster_checks import check_connection, check_port
from nuclei.device import Compute, setup_device
from nuclei.errors import InputError
from nuclei.machine import usable_threads

# Ray reads these when it is imported. Its workers share this environment, and one line per trial is enough.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # it would take a search that was cut short for a whole one
if os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # a refusal is one; 20 tries take a quarter of an hour
else:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # as there, listen on loopback, on no other address

try:
    Path.home()
except RuntimeError:  # a user without a name, and no HOME: Ray could not be imported
    os.environ["HOME"] = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()

CROPS_PER_TASK = 256  # that travel to a worker together: 8 MB; whole batches, so that they are computed as if alone
TASKS_PER_WORKER = 2  # the next one arrives while one is computed
ATTEMPTS = 3  # of a task whose worker is lost
STARTS = 3  # of a Ray that is too slow to start
HEAD_SILENT = 30  # seconds until a head that does not answer is given up
WATCH = 2  # seconds between two questions

Key = TypeVar("Key")


def cluster_address() -> str | None:
    """Return the address in RAY_ADDRESS; None where it is not set: work stays on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start a local Ray; leave it at the end. Inside another: do nothing.

    The package travels along: the machines of the cluster need Python and the packages it depends on, no more.

    Raises:
        InputError: Ray cannot be reached or started.
    """
    import ray  # takes a second: not before it is needed

    if ray.is_initialized():
        yield
        return
    session = _join()
    try:
        yield
    finally:
        ray.shutdown()
        if not cluster_address():
            shutil.rmtree(session, ignore_errors=True)  # logs, which Ray never deletes


def _join() -> str:
    """Join or start Ray; return the folder of its session, on this machine where it was started here."""
    import ray

    address = cluster_address()
    if address:
        check_connection(address)
    else:
        check_port()
        _hide_token()
    try:
        context = _start(address)
    except Exception as error:  # Ray raises whatever it comes upon
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, PermissionError) and Path(error.filename or "").is_relative_to(Path.home()):
            raise InputError(
                f"Ray keeps its token in the home folder, {Path.home()}, which cannot be written to: set HOME to a "
                "folder that can be"
            ) from None
        if not address:
            raise InputError(
                f"Ray does not start on this machine: {reason}. It writes to RAY_TMPDIR (/tmp where that is not set): "
                "a short path to a folder that can be written to, on a disk with room"
            ) from error
        raise InputError(
            f"RAY_ADDRESS: cannot join {address}: {reason}. Ray {ray.__version__} has to run there, and its token "
            "to be in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token (see docs/cluster.md)"
        ) from error
    _hide_token()
    if address:
        threading.Thread(target=_watch, args=[ray.get_runtime_context().gcs_address], daemon=True).start()
    return context.address_info["session_dir"]


def _hide_token() -> None:
    """Keep the token that Ray leaves in the home folder from other users: who reads it can run code as this one."""
    with suppress(OSError, RuntimeError):  # no home: Ray says so
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "auth_token").chmod(0o600)


def _start(address: str | None) -> Any:
    """Call ray.init; again where a busy machine, with two pipelines for instance, was too slow for Ray."""
    import ray

    for attempt in count(1):
        # With a working_dir, be it empty, Ray leaves this process's folders off the workers' path: a machine that has
        # folders of that name would import from there, and not the package that travels.
        with tempfile.TemporaryDirectory() as empty:
            package = {"working_dir": empty, "py_modules": [str(Path(nuclei.__file__).parent)]}
            try:
                return ray.init(
                    address=address or "local",
                    num_cpus=None if address else usable_threads(),
                    runtime_env=package if address else None,
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except Exception as error:
                if attempt == STARTS or "timed out during startup" not in str(error):
                    raise
                print("Ray did not start within half a minute: once more", flush=True)
                ray.shutdown()


def _watch(head: str) -> None:
    """End this process when the head is gone: Ray would wait, and then end it without a word to the point."""
    import ray

    last = time.monotonic()
    while ray.is_initialized():
        time.sleep(WATCH)
        try:
            check_connection(head)
            last = time.monotonic()
        except InputError:
            if time.monotonic() - last > HEAD_SILENT and ray.is_initialized():
                print(f"error: the head of the Ray cluster, {head}, is lost: start it, then run again", file=sys.stderr)
                os._exit(1)


def worker_slots(cpus: int, gpus: float, what: str) -> int:
    """Return how many workers the machines have room for together.

    Args:
        cpus: Of each worker, 1 or more.
        gpus: Of each worker, 0 or more; may be a fraction.
        what: The parameters that ask for them, for the message.

    Raises:
        InputError: Not even one worker fits on any machine.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [(machine.get("CPU", 0), machine.get("GPU", 0)) for machine in alive]
    room = sum(int(min(has // cpus, has_gpus // gpus) if gpus else has // cpus) for has, has_gpus in machines)
    if not room:
        kinds = ", ".join(f"{has:g} CPUs and {has_gpus:g} GPUs" for has, has_gpus in dict.fromkeys(machines))
        raise InputError(
            f"{what}: {cpus} CPUs and {gpus:g} GPUs on one machine asked for, Ray has those with {kinds}: ask for less"
        )
    return room


def gpus_per_worker(device: str) -> int:
    """Return how many GPUs a worker needs that computes on `device`, 0 or 1; auto: 1 where the cluster has any."""
    import ray

    return int(device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0))


def map_crops(function: Callable[..., Any], arrays: Sequence[np.ndarray], compute: Compute) -> Any:
    """Return function(*arrays, device=...), computed on the cluster that RAY_ADDRESS names, or else here.

    Args:
        function: Computes each batch of crops by itself; returns an array with one row per crop, or several by name.
        arrays: One row per crop each; may be memory-mapped.
        compute: What each process computes with.

    Raises:
        InputError: The cluster cannot be reached, has no room, or `function` raised it.
    """
    if not cluster_address():
        return function(*arrays, device=setup_device(compute.device, compute.threads))
    import ray

    if not ray.is_initialized():
        _join()  # until the process ends: every time would cost seconds
    starts = range(0, len(arrays[0]), CROPS_PER_TASK)
    blocks = ([np.array(array[start : start + CROPS_PER_TASK]) for array in arrays] for start in starts)
    results = list(stream(function, blocks, compute))
    if isinstance(results[0], dict):
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    return np.concatenate(results)


def has_room_for_one(compute: Compute) -> bool:
    """Return whether work stays on this machine, and just one process at a time fits: then Ray has nothing to spread.

    Args:
        compute: What each process computes with.
    """
    fit = usable_threads() // compute.threads
    gpus = torch.cuda.device_count() if compute.device in ("auto", "cuda") else 0
    return not cluster_address() and min(fit, gpus or fit) == 1


def run_in_turn(
    function: Callable[..., Iterator[Any]],
    shared: tuple[Any, ...],
    tasks: Mapping[Key, Callable[[], tuple[Any, ...]]],
    compute: Compute,
) -> Iterator[tuple[Key, Any]]:
    """Run generators in this process, one after another, and yield what they yield; arguments as in `stream_tasks`."""
    for key, arguments in tasks.items():
        for item in function(*shared, key, *arguments(), compute):
            yield key, item


def stream(function: Callable[..., Any], blocks: Iterable[Sequence[np.ndarray]], compute: Compute) -> Iterator[Any]:
    """Compute all over the cluster, and yield the results in order. Needs `ray_cluster`.

    Blocks travel through Ray's object store, a few for every worker at a time: memory does not grow with their number.
    What a lost machine had in hand is computed again by another.

    Args:
        function: Called as function(*block, device=...).
        blocks: The arguments of each call.
        compute: What each worker computes with.

    Raises:
        InputError: No machine has room for a worker, or `function` raised it.
    """
    import ray

    gpus = gpus_per_worker(compute.device)
    task = ray.remote(_run_block).options(num_cpus=compute.threads, num_gpus=gpus, max_retries=5)
    shared = ray.put(function)
    pending: deque[ray.ObjectRef] = deque()
    limit = 0
    for number, block in enumerate(blocks):
        if not limit or number % limit == 0:  # machines come and go; on a large cluster it takes a while to ask
            limit = TASKS_PER_WORKER * worker_slots(compute.threads, gpus, "threads and device")
        pending.append(task.remote(shared, compute, *block))
        while len(pending) >= limit:
            yield ray_get(pending.popleft())
    while pending:
        yield ray_get(pending.popleft())


def stream_tasks(
    function: Callable[..., Iterator[Any]],
    shared: tuple[Any, ...],
    tasks: Mapping[Key, Callable[[], tuple[Any, ...]]],
    compute: Compute,
    on_lost: Callable[[Key, str], Any] | None = None,
) -> Iterator[tuple[Key, Any]]:
    """Run generators side by side, all over the cluster, and yield what they yield as it comes. Needs `ray_cluster`.

    Args:
        function: Called as function(*shared, key, *arguments, compute); a generator.
        shared: What all of them get, put into Ray's object store once.
        tasks: What returns the arguments of each, asked for again where a worker was lost and another one starts.
        compute: What each of them computes with.
        on_lost: Called where a worker is lost in every attempt, with the key of the task and what Ray says; what it
            returns is yielded in the place of the rest. None: an error.

    Yields:
        The key of a task and an item of its generator.

    Raises:
        InputError: Where no machine has room for one of them, one raised it, or its worker is lost in every attempt.
    """
    import ray
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

    gpus = gpus_per_worker(compute.device)
    worker_slots(compute.threads, gpus, "threads and device")
    remote = ray.remote(_run_generator).options(
        num_cpus=compute.threads, num_gpus=gpus, num_returns="streaming", max_retries=0
    )
    common = ray.put((function, shared, compute))
    attempts = dict.fromkeys(tasks, 1)
    running: dict[Any, Key] = {remote.remote(common, key, *arguments()): key for key, arguments in tasks.items()}
    try:
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            generator: Any = ready[0]
            key = running[generator]
            try:
                yield key, ray_get(next(generator))
            except StopIteration:
                del running[generator]
            except (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError) as error:
                del running[generator]
                if attempts[key] < ATTEMPTS:
                    print(f"a worker was lost: {key} goes on elsewhere as soon as there is room", flush=True)
                    attempts[key] += 1
                    running[remote.remote(common, key, *tasks[key]())] = key
                elif on_lost:
                    yield key, on_lost(key, str(error))
                else:
                    raise worker_error(str(error), "train.threads") from None
    finally:
        for generator in running:
            ray.cancel(generator, force=True)


def _run_generator(common: tuple[Any, ...], key: Any, *arguments: Any) -> Iterator[Any]:
    """Run on a worker."""
    function, shared, compute = common
    yield from function(*shared, key, *arguments, compute)


def _run_block(function: Callable[..., Any], compute: Compute, *block: np.ndarray) -> Any:
    """Run on a worker."""
    return function(*block, device=setup_device(compute.device, compute.threads))


def worker_error(reason: str, cores: str) -> InputError:
    """Return the error of workers that are lost whenever they are started again.

    Args:
        reason: What Ray says, of any length.
        cores: The parameter that says how many cores a worker has to itself.
    """
    if "low on memory" in reason or "OutOfMemory" in reason:
        return InputError(
            "the machine ran out of memory, and Ray ended worker after worker: let fewer run side by side "
            f"(more {cores} for each), lower batch_size, end other programs, or take a machine with more memory"
        )
    first = " ".join(reason.split())[:200]
    return InputError(
        f"Ray's workers end, or cannot start, again and again ({first}): see that they may run Python here, have "
        "memory and may write to RAY_TMPDIR (/tmp where that is not set); `nuclei doctor` looks for causes"
    )


def ray_get(references: Any) -> Any:
    """Wait for the result of one of Ray's references, or the results of a list of them.

    Raises:
        InputError: As the worker raised it: its message reaches the user as if it had been raised here.
    """
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
