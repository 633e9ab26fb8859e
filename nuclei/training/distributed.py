"""Training where the place says: in this process, or on Ray workers that share every batch."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from torch import distributed, nn
from tqdm import tqdm

from nuclei.cluster import cluster_address, fetch, gpus_a_worker, places, ray_cluster
from nuclei.crops import Labelled
from nuclei.device import Place, choose_device
from nuclei.errors import InputError
from nuclei.training.loop import Epoch, Recipe, describe, fit
from nuclei.training.parallel import Team, unite

ATTEMPTS = 3  # a lost worker is no reason to lose the training


def fit_anywhere(
    network: nn.Module,
    train: Labelled,
    validation: Labelled | None,
    recipe: Recipe,
    place: Place,
    label: str = "",
    kept: Path | None = None,
) -> Iterator[Epoch]:
    """As `fit`; on the cluster that RAY_ADDRESS names, if it is set, and on a local Ray if there are several workers.

    Several workers each compute a part of every batch, with batch norm over the whole of it: the same training up to
    rounding. When one is lost, training starts again, and goes on where it was. `network` is trained in place only
    here; elsewhere take the weights of an Epoch. kept: as in `fit`, for trainings in this process alone.
    Raises InputError where there is no room for the workers, or a batch has fewer crops than there are workers.
    """
    if place.workers == 1 and not cluster_address():
        yield from fit(network, train, validation, recipe, choose_device(place.device, place.threads), label, kept=kept)
        return
    import ray

    smallest = min(recipe.batch_size, len(train), len(validation or train))
    if place.workers > smallest:
        raise InputError(f"workers: {place.workers} cannot share {smallest} crops: lower it")
    with ray_cluster():
        gpus = gpus_a_worker(place.device)
        room = places(place.threads, gpus, "threads and device")
        if room < place.workers:
            raise InputError(
                f"workers: {place.workers} of {place.threads} CPUs (threads) and {gpus} GPUs asked for, "
                f"Ray has room for {room}: lower it"
            )
        shared = ray.put((network, train, validation, recipe))
        done = 0  # epochs
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for epoch in islice(_fit_on_workers(shared, place, gpus, recipe.epochs), done, None):
                    done += 1
                    if label:
                        tqdm.write(f"{label}: {describe(epoch.scores, recipe.epochs)}")
                    yield epoch
                return
            except ray.exceptions.RayError:
                if attempt == ATTEMPTS:
                    raise
                print("a worker was lost: training starts again as soon as there is room for all", flush=True)


def _fit_on_workers(shared: Any, place: Place, gpus: int, epochs: int) -> Iterator[Epoch]:
    import ray

    worker = ray.remote(_Worker).options(num_cpus=place.threads, num_gpus=gpus)
    team = [worker.remote(Team(rank, place.workers)) for rank in range(place.workers)]
    try:
        meeting = fetch(team[0].open_meeting.remote())
        fetch([member.start.remote(meeting, shared, place) for member in team])
        for _ in range(epochs):
            first, *_ = fetch([member.next_epoch.remote() for member in team])
            yield first
    finally:
        for member in team:
            ray.kill(member)


class _Worker:
    """One process of a team, on any machine."""

    def __init__(self, team: Team):
        self.team = team
        self.store = None

    def open_meeting(self) -> tuple[str, int]:
        """Return host and port where the others find this one."""
        import ray

        host = ray.util.get_node_ip_address()
        self.store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, self.store.port

    def start(self, meeting: tuple[str, int], shared: tuple, place: Place) -> None:
        network, train, validation, recipe = shared
        device = choose_device(place.device, place.threads)
        if self.team.size > 1:
            store = self.store or distributed.TCPStore(*meeting)
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface())
            backend = "nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, store=store, rank=self.team.rank, world_size=self.team.size)
            unite(network)
        self.epochs = fit(network, train, validation, recipe, device, team=self.team)

    def next_epoch(self) -> Epoch | None:
        """Train for an epoch; the first of the team returns it."""
        epoch = next(self.epochs)
        return epoch if self.team.rank == 0 else None


def _interface() -> str:
    """Return the network interface by which Ray reaches this machine: Gloo would go by the host's name."""
    import ray

    host = ray.util.get_node_ip_address()
    return next(name for name, ends in psutil.net_if_addrs().items() if host in [end.address for end in ends])
