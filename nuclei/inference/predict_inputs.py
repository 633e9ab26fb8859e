"""What `nuclei predict` does: classify each of several inputs, here or on a cluster, and go on where it was ended."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nuclei.data.positions import find_positions
from nuclei.errors import REMEDIES, InputError, one_line
from nuclei.files import atomic_write, require_distinct, require_writable_file
from nuclei.inference.record import (
    claim,
    describe_models,
    file_sha256,
    is_done,
    require_results_of,
    sources,
    write_record,
)
from nuclei.machine import usable_threads

if TYPE_CHECKING:
    from nuclei.device import Compute
    from nuclei.inference.classifier import Classifier

# PyTorch, which takes seconds to import, is imported after the checks.


class Settings(NamedTuple):
    """How inputs are classified.

    Attributes:
        mpp: Microns per pixel of all of them; None: what each tells, or else the model's.
        detector: What finds the nuclei of tiles and slides, FILE.py:FUNCTION; None: the built-in one.
        features: Whether embeddings, shapes and neighbours are written too.
        device: As in `nuclei.load`, as the other attributes.
        threads: CPU threads; None takes all.
        precision: float32, bfloat16, or auto.
        tta: Average over the eight flips and rotations of each crop.
        neighbours: Weigh in the neighbours of each nucleus.
    """

    mpp: float | None
    detector: str | None
    features: bool
    device: str
    threads: int | None
    precision: str
    tta: bool
    neighbours: bool

    def asked(self) -> dict[str, Any]:
        """Return those that make other results; device and threads change no more than the last digits."""
        asked = {name: value for name, value in self._asdict().items() if name not in ("device", "threads")}
        file = self.detector.rpartition(":")[0] if self.detector else None
        return asked | {"detector_sha256": file_sha256(Path(file)) if file else None}


class Job(NamedTuple):
    """An input to be classified.

    Attributes:
        source: The input.
        nuclei: The file of its nuclei; None: they are detected where it is a tile or slide.
        paths: Table, GeoJSON and overlay, which crops do not have, files of features, and the record of the run.
        made_of: Of `nuclei.inference.record.sources`.
    """

    source: Path
    nuclei: Path | None
    paths: list[Path]
    made_of: dict[str, Any]


class Outcome(NamedTuple):
    """What became of an input.

    Attributes:
        line: What is to be said of it, or what was wrong with it.
        is_error: Whether something was.
        warnings: What was written to stderr elsewhere.
    """

    line: str
    is_error: bool
    warnings: str = ""


def predict_inputs(
    models: Sequence[Path], inputs: Sequence[Path], nuclei: Sequence[Path], out: Path, settings: Settings
) -> None:
    """Classify each input, and print a line about it. What was done before, of the same files, is not done again.

    Args:
        models: Checkpoints, whose probabilities are averaged.
        inputs: Crops, folders or zips of crops, tiles or slides.
        nuclei: The nuclei of the tiles or slides, see `find_positions`; none: they are detected.
        out: Folder of the results: INPUT_predictions.csv, INPUT_run.json; of a tile or slide INPUT_predictions.geojson
            and INPUT_overlay.png; of features INPUT_features.parquet and, where anndata is installed, .h5ad.
        settings: How.

    Raises:
        InputError: Before any work, where a result may not be written; after it, where an input could not be
            classified: the others are.
    """
    positions = find_positions(inputs, nuclei) if nuclei else {}
    outputs = [_outputs(out, source, settings.features) for source in inputs]
    require_distinct([path for paths in outputs for path in paths], [*models, *inputs, *positions.values()])
    for source, paths in zip(inputs, outputs, strict=True):
        require_results_of(paths, source)
        for path in paths:
            require_writable_file(path)
    described, jobs = describe_models(models), []
    for source, paths in zip(inputs, outputs, strict=True):
        made_of = sources(source, positions.get(source), described, settings.asked())
        if is_done(paths, made_of):
            print(one_line(f"{source}: done before, with the same models and settings: {paths[0]}"), flush=True)
        else:
            jobs.append(Job(source, positions.get(source), paths, made_of))
    if not jobs:
        return

    from nuclei.cluster import cluster_address
    from nuclei.inference.classifier import load_classifier

    address = cluster_address()
    device = "cpu" if address else settings.device  # a worker chooses its device itself
    how = settings.threads, settings.precision, settings.tta, settings.neighbours
    classifier = load_classifier(models, device, *how)
    failed = 0
    for outcome in (_on_cluster if address else _here)(classifier, jobs, settings):
        print(outcome.warnings, end="", file=sys.stderr)
        if not outcome.is_error:
            print(one_line(outcome.line), flush=True)
        elif len(inputs) == 1:
            raise InputError(outcome.line)
        else:
            failed += 1
            print(one_line(f"error: {outcome.line}"), file=sys.stderr)
    if failed:
        raise InputError(f"{failed} of {len(inputs)} inputs were not classified: see above")


def _outputs(folder: Path, source: Path, with_features: bool) -> list[Path]:
    """Return the files that may be written for an input, see `Job`."""
    absolute = Path(os.path.abspath(source))  # noqa: PTH100 of "." and "..", which have a name too
    name = absolute.name if absolute.is_dir() else absolute.stem
    ends = ["predictions.csv", "predictions.geojson", "overlay.png"]
    if with_features:
        ends += ["features.parquet", *(["features.h5ad"] if find_spec("anndata") else [])]
    return [folder / f"{name}_{end}" for end in [*ends, "run.json"]]


def _here(classifier: "Classifier", jobs: Sequence[Job], settings: Settings) -> Iterator[Outcome]:
    for job in jobs:
        yield _outcome(classifier, job, settings)


def _on_cluster(classifier: "Classifier", jobs: Sequence[Job], settings: Settings) -> Iterator[Outcome]:
    """Classify each input on a machine of the cluster, which reads it, and writes its results, by itself."""
    from nuclei.cluster import ray_cluster, stream_tasks, worker_error
    from nuclei.device import Compute

    compute = Compute(settings.device, settings.threads or usable_threads())
    if settings.detector:  # workers are in another folder
        settings = settings._replace(detector=str(Path(settings.detector).absolute()))
    tasks = {str(job.source): lambda job=job: (_absolute(job),) for job in jobs}

    def lost(source: str, reason: str) -> Outcome:
        return Outcome(f"{source}: {worker_error(reason, '--threads')}", is_error=True)

    with ray_cluster():
        for _, outcome in stream_tasks(_task, (classifier, settings), tasks, compute, lost):
            yield outcome


def _absolute(job: Job) -> Job:
    """Return a job that means the same in another working folder."""
    nuclei = job.nuclei.absolute() if job.nuclei else None
    return job._replace(source=job.source.absolute(), nuclei=nuclei, paths=[path.absolute() for path in job.paths])


def _task(classifier: "Classifier", settings: Settings, name: str, job: Job, compute: "Compute") -> Iterator[Outcome]:
    """Run on a worker."""
    from nuclei.device import setup_device

    with redirect_stderr(StringIO()) as warnings:
        device = setup_device(compute.device, compute.threads)
        try:
            outcome = _outcome(replace(classifier, device=device), job, settings)
        except OSError as error:
            if error.errno not in REMEDIES:
                raise
            outcome = Outcome(f"{error.filename or name}: {error.strerror}: {REMEDIES[error.errno]}", is_error=True)
    yield outcome._replace(warnings=warnings.getvalue())


def _outcome(classifier: "Classifier", job: Job, settings: Settings) -> Outcome:
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is reported here, or does no harm
    try:
        return Outcome(_predict(classifier, job, settings), is_error=False)
    except InputError as error:
        return Outcome(str(error), is_error=True)


def _predict(classifier: "Classifier", job: Job, settings: Settings) -> str:
    """Classify an input; return the line that tells of it."""
    from nuclei.inference.crop_files import is_larger_than_a_crop
    from nuclei.inference.detect import detected
    from nuclei.inference.predict_files import predict_crops, predict_image

    table, geojson, overlay, *features, record = job.paths
    detection: dict[str, Any] = {}
    with atomic_write(record) as temporary:  # from the start: a second process is refused before hours of work
        require_results_of(job.paths, job.source)
        with claim(job.paths, job.made_of), ExitStack() as stack:
            nuclei = job.nuclei
            if not nuclei and is_larger_than_a_crop(job.source, classifier.task, settings.mpp):
                nuclei, detection = stack.enter_context(detected(job.source, settings.mpp, settings.detector))
            if nuclei:
                results = [table, geojson, overlay, *features]
                predictions, mpp, mpp_source = predict_image(
                    classifier, job.source, nuclei, settings.mpp, table, geojson, overlay, features
                )
            else:
                results = [table, *features]
                predictions = predict_crops(classifier, job.source, settings.mpp, table, features)
                mpp = settings.mpp or classifier.task.mpp
                mpp_source = "--mpp" if settings.mpp else "assumed where a crop does not tell it"
            about = {
                "mpp": mpp,
                "mpp_source": mpp_source,
                "set_coverage_promised": classifier.promised_coverage(),
                "set_threshold": classifier.set_threshold(),
                "novelty_threshold": 1.0,
            }
            write_record(temporary, job.made_of, detection | about, results)
    counts = np.bincount(predictions.labels, minlength=len(classifier.classes))
    listed = ", ".join(f"{count:,} {name}" for name, count in zip(classifier.classes, counts, strict=True))
    doubts = f"{predictions.unsure.sum():,} unsure, {predictions.unlike.sum():,} unlike anything in training"
    return f"{job.source}: {listed}; {doubts}; written: {', '.join(map(str, [*results, record]))}"
