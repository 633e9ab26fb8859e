"""What `nuclei predict` does: classify each of several inputs, and write its results and their record."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nuclei.errors import one_line
from nuclei.files import atomic_write, require_distinct, require_writable_file
from nuclei.inference.record import require_results_of, write_record

if TYPE_CHECKING:
    from nuclei.inference.classifier import Classifier

# PyTorch, which takes seconds to import, is imported after the checks.


class Settings(NamedTuple):
    """How inputs are classified.

    Attributes:
        mpp: Microns per pixel of all of them; None: what each tells, or else the model's.
        device: As in `nuclei.load`, as the other attributes.
        threads: CPU threads; None takes all.
        precision: float32, bfloat16, or auto.
        tta: Average over the eight flips and rotations of each crop.
    """

    mpp: float | None
    device: str
    threads: int | None
    precision: str
    tta: bool


def predict_inputs(
    models: Sequence[Path], inputs: Sequence[Path], nuclei: Path | None, out: Path, settings: Settings
) -> None:
    """Classify each input, and print a line about it.

    Args:
        models: Checkpoints, whose probabilities are averaged.
        inputs: Crops, folders or zips of crops, tiles or slides.
        nuclei: The nuclei of the tile or slide; None: of crops.
        out: Folder of the results: INPUT_predictions.csv, INPUT_run.json and, with nuclei, INPUT_predictions.geojson
            and INPUT_overlay.png.
        settings: How.

    Raises:
        InputError: Before any work, where a result may not be written; and see `nuclei.inference.predict_files`.
    """
    outputs = [_outputs(out, source, bool(nuclei)) for source in inputs]
    require_distinct([path for paths in outputs for path in paths], [*models, *inputs, *filter(None, [nuclei])])
    for source, paths in zip(inputs, outputs, strict=True):
        require_results_of(paths, source)
        for path in paths:
            require_writable_file(path)

    from nuclei.inference.classifier import load_classifier

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is reported here, or does no harm
    classifier = load_classifier(models, settings.device, settings.threads, settings.precision, settings.tta)
    for source, paths in zip(inputs, outputs, strict=True):
        print(_predict(classifier, models, source, nuclei, settings.mpp, paths))


def _outputs(folder: Path, source: Path, with_nuclei: bool) -> list[Path]:
    """Return the files that are written for an input; the last one is the record of the run."""
    absolute = Path(os.path.abspath(source))  # noqa: PTH100 of "." and "..", which have a name too
    name = absolute.name if absolute.is_dir() else absolute.stem
    ends = ["predictions.csv", *(["predictions.geojson", "overlay.png"] if with_nuclei else []), "run.json"]
    return [folder / f"{name}_{end}" for end in ends]


def _predict(
    classifier: "Classifier",
    models: Sequence[Path],
    source: Path,
    nuclei: Path | None,
    given_mpp: float | None,
    paths: Sequence[Path],
) -> str:
    """Classify an input; return the line that tells of it."""
    from nuclei.inference.predict_files import predict_crops, predict_image

    *results, record = paths
    with atomic_write(record) as temporary:  # from the start: a second process is refused before hours of work
        require_results_of(paths, source)
        if nuclei:
            labels, mpp, mpp_source = predict_image(classifier, source, nuclei, given_mpp, *results)
        else:
            labels = predict_crops(classifier, source, given_mpp, *results)
            mpp = given_mpp or classifier.task.mpp
            mpp_source = "--mpp" if given_mpp else "assumed where a crop does not tell it"
        about = {"mpp": mpp, "mpp_source": mpp_source, "set_coverage_promised": classifier.promised_coverage()}
        write_record(temporary, source, nuclei, models, about)
    counts = np.bincount(labels, minlength=len(classifier.classes))
    listed = ", ".join(f"{count:,} {name}" for name, count in zip(classifier.classes, counts, strict=True))
    return one_line(f"{source}: {listed}; written: {', '.join(map(str, paths))}")
