"""The command `nuclei`: predict, detect, export, import, relabel, example, doctor."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from nuclei.errors import InputError, one_line, run, warn
from nuclei.machine import collect_garbage_rarely, ignore_matplotlib_settings
from nuclei.task import CLASSES

SETS = {
    "consep": "CoNSeP, colon: what the competition's crops were cut from",
    "nucls": "NuCLS, breast",
    "pannuke": "PanNuke, 19 tissues",
}


def main() -> None:
    """Run the command that the command line asks for; a wrong one, or bad input, ends with one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end the work
    collect_garbage_rarely()
    ignore_matplotlib_settings()
    run(lambda: act(sys.argv[1:]))


def act(words: list[str]) -> None:
    """Run a command.

    Args:
        words: What follows `nuclei` on the command line.

    Raises:
        InputError: The command line is wrong, or bad input.
    """
    args = parse(words)
    args.action(args)


class Parser(argparse.ArgumentParser):
    """Answers a wrong command line as any other bad input is answered: with one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}: see {self.prog} --help")


def parse(words: list[str]) -> argparse.Namespace:
    """Turn the words of a command line into options.

    Args:
        words: What follows `nuclei`.

    Returns:
        The options; `action` is the function that runs the command with them.

    Raises:
        InputError: No command has these options.
    """
    parser = Parser(prog="nuclei", description="Tell the type of nuclei in H&E-stained colon tissue.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('nuclei')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "classify crops, or the nuclei of a tile or slide"
    command = commands.add_parser("predict", help=about, description=predict.__doc__)
    about = "trained model (.safetensors); more of them among the inputs are averaged with it"
    command.add_argument("model", type=Path, metavar="MODEL", help=about)
    about = "crop, folder or zip of crops, tile or slide; several: one after the other, or over RAY_ADDRESS's cluster"
    command.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help=about)
    about = "nuclei of the tile or slide: CSV with x and y, GeoJSON, HoVer-Net's or CellViT's JSON; of several, one of "
    about += "each, by the same names, or their folder, or one CSV with a column Image; default: detected"
    command.add_argument("--nuclei", type=Path, nargs="+", default=[], metavar="FILE", help=about)
    _add_detector(command)
    about = "microns per pixel; default: what the image tells, or else the model's"
    command.add_argument("--mpp", type=_between(0.01, 10.0), metavar="N", help=about)
    about = "output folder; default: %(default)s"
    command.add_argument("--out", type=Path, default="predictions", metavar="FOLDER", help=about)
    about = "also write what the network computed, and what outlines and neighbours say, as Parquet"
    command.add_argument("--features", action="store_true", help=about)
    about = "averaging over eight flips and rotations; default: on"
    command.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help=about)
    about = "weigh in the nuclei within 50 microns of each nucleus of a tile or slide; default: off"
    command.add_argument("--neighbours", action=argparse.BooleanOptionalAction, default=False, help=about)
    about = "processor; default: cuda, else mps, else cpu"
    command.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help=about)
    about = "number of CPU threads; default: all"
    command.add_argument("--threads", type=_between(1, 1024), metavar="N", help=about)
    about = "number format of the network; default: bfloat16 where the device computes in it"
    command.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=about)
    command.set_defaults(action=predict)

    about = "find the nuclei of a tile or slide"
    command = commands.add_parser("detect", help=about, description=detect.__doc__)
    command.add_argument("slide", type=Path, metavar="SLIDE", help="tile or slide, stained with H&E")
    about = "microns per pixel; default: what the image tells"
    command.add_argument("--mpp", type=_between(0.01, 10.0), metavar="N", help=about)
    about = "of nuclei, microns, of circles of their area; default: 3 20"
    command.add_argument("--diameter", type=_between(1.0, 100.0), nargs=2, metavar=("FROM", "TO"), help=about)
    _add_detector(command)
    about = "output folder; default: %(default)s"
    command.add_argument("--out", type=Path, default="detections", metavar="FOLDER", help=about)
    command.set_defaults(action=detect)

    about = "write a model as ONNX: uint8 crops in, probabilities out"
    command = commands.add_parser("export", help=about, description=export.__doc__)
    command.add_argument("model", type=Path, metavar="MODEL", help="trained model (.safetensors)")
    command.add_argument("out", type=Path, metavar="FILE", help="ONNX file to be written (.onnx)")
    command.set_defaults(action=export)

    about = "turn your slides, or a public set of nuclei, into the files of the competition"
    command = commands.add_parser("import", help=about, description=import_set.__doc__)
    sets = command.add_subparsers(required=True, metavar="SET", dest="set")
    for name, title in SETS.items():
        command = sets.add_parser(name, help=title, description=f"{title}.")
        if name == "pannuke":
            about = "tissue, as PanNuke names it; default: %(default)s"
            command.add_argument("--tissue", default="Colon", metavar="NAME", help=about)
        if name == "consep":
            about = "the competition's four, HoVer-Net's four, or all seven; default: %(default)s"
            sets_of_classes = ["competition", "hovernet", "all"]
            command.add_argument("--classes", choices=sets_of_classes, default="competition", help=about)
            about = "crops drawn at random, as the competition's, or the authors' tiles; default: %(default)s"
            command.add_argument("--split", choices=["random", "official"], default="random", help=about)
        command.add_argument("archives", type=Path, nargs="+", metavar="ZIP", help="zip as its authors ship it")
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new output folder")
        about = "random seed of the train/test split; default: %(default)s"
        command.add_argument("--seed", type=_between(0, 2**31 - 1), default=0, metavar="N", help=about)
        command.set_defaults(action=import_set)
    _add_labelled(sets)
    about = "write labels that were corrected in a spreadsheet or QuPath into a copy of the data"
    command = commands.add_parser("relabel", help=about, description=relabel.__doc__)
    command.add_argument("raw", type=Path, metavar="FOLDER", help="of train.csv, as data.raw names it")
    about = "to_correct.csv or to_correct_IMAGE.geojson of reports/review, corrected"
    command.add_argument("corrected", type=Path, nargs="+", metavar="FILE", help=about)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new output folder")
    about = "names of the labels, where train.csv has numbers, separated by commas; default: the competition's"
    command.add_argument("--classes", type=_names, metavar="A,B", help=about)
    command.set_defaults(action=relabel)

    about = "draw tiles of synthetic tissue with labelled nuclei, to try `import points` and `predict` on"
    command = commands.add_parser("example", help=about, description=example.__doc__)
    command.add_argument("out", type=Path, metavar="FOLDER", help="new output folder")
    about = "how many; default: %(default)s"
    command.add_argument("--tiles", type=_between(1, 1000), default=12, metavar="N", help=about)
    command.add_argument("--seed", type=_between(0, 2**31 - 1), default=0, metavar="N", help="default: %(default)s")
    command.set_defaults(action=example)

    about = "what this machine has, what it lacks, and how to mend it"
    command = commands.add_parser("doctor", help=about, description=doctor.__doc__)
    command.set_defaults(action=doctor)

    args, rest = parser.parse_known_args(words)
    if rest and ("inputs" not in args or any(word.startswith("-") for word in rest)):
        raise InputError(f"unrecognized arguments: {' '.join(rest)}: see {parser.prog} --help")
    if "inputs" in args:  # those behind an option are left over by argparse
        args.models, args.inputs = _split_files([args.model, *args.inputs, *map(Path, rest)])
    return args


def _add_labelled(sets: Any) -> None:
    """Add the importers of the user's slides and crops."""
    about = "your slides or tiles, and the nuclei that were labelled on them"
    command = sets.add_parser("points", help=about, description=f"{about}.")
    command.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="slide or tile")
    about = "labelled nuclei: GeoJSON of QuPath, or CSV with x, y, label; of each slide, or one CSV with a column Image"
    command.add_argument("--points", type=Path, nargs="+", required=True, metavar="FILE", help=about)
    about = "pixels per side of a crop; default: %(default)s"
    command.add_argument("--size", type=_between(16, 1024), default=100, metavar="N", help=about)
    about = "microns per pixel of a crop; default: %(default)s"
    command.add_argument("--mpp", type=_between(0.05, 4.0), default=0.25, metavar="N", help=about)
    about = "microns per pixel of the slides; default: what each tells"
    command.add_argument("--slide-mpp", type=_between(0.01, 10.0), metavar="N", help=about)
    about = "column of the CSV that names the patient; default: each slide is a group"
    command.add_argument("--group", metavar="COLUMN", help=about)
    about = "crops that reach beyond the slide: mirror what is missing, or skip them; default: %(default)s"
    command.add_argument("--border", choices=["mirror", "skip"], default="mirror", help=about)
    about = "classes, separated by commas; default: all labels that occur"
    command.add_argument("--classes", type=_names, metavar="A,B", help=about)
    _add_output(command)
    about = "crops in a folder per class (and, in these, per patient)"
    command = sets.add_parser("folders", help=about, description=f"{about}.")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the folders")
    _add_output(command)


def _add_detector(command: argparse.ArgumentParser) -> None:
    about = "function of yours that finds nuclei in a tile; default: the built-in one"
    command.add_argument("--detector", metavar="FILE.py:FUNCTION", help=about)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new output folder")
    about = "share of the crops of each class that becomes test.zip, predicted and not scored; default: %(default)s"
    command.add_argument("--test-share", type=_between(0.0, 0.9), default=0.2, metavar="N", help=about)
    about = "random seed of that draw; default: %(default)s"
    command.add_argument("--seed", type=_between(0, 2**31 - 1), default=0, metavar="N", help=about)
    command.set_defaults(action=import_labelled)


def _split_files(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return models and inputs: the first file and all that end with .safetensors are models."""
    is_model = [number == 0 or file.suffix.lower() == ".safetensors" for number, file in enumerate(files)]
    models = [file for file, model in zip(files, is_model, strict=True) if model]
    inputs = [file for file, model in zip(files, is_model, strict=True) if not model]
    if not inputs:
        raise InputError("the following arguments are required: INPUT: see nuclei predict --help")
    return models, inputs


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(str.strip, text.split(",")))


def _between(low: float, high: float) -> Callable[[str], float]:
    """Return what turns text into a number, of the type of `low`, from `low` to `high`."""

    def number(text: str) -> float:
        value = type(low)(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    return number


# What a command needs is imported by it alone: PyTorch takes seconds, and an extra may not be installed.


def predict(args: argparse.Namespace) -> None:
    """Classify crops, or the nuclei of a tile or slide.

    Writes INPUT_predictions.csv, with calibrated probabilities, the set of classes that a nucleus may well be (more
    than one: the model is unsure) and its novelty (above 1: unlike anything in training), and INPUT_run.json, which
    tells what they were made of; of a tile or slide, also INPUT_predictions.geojson, which QuPath opens, and
    INPUT_overlay.png; with --features, also INPUT_features.parquet, and INPUT_features.h5ad where anndata is installed.
    What was done before, of the same files, models and settings, is passed over: given again, an interrupted command
    goes on.
    """
    _require_writable(args.out)
    if args.features and not find_spec("pyarrow"):
        raise InputError("--features needs pyarrow: pip install -e '.[features]'")

    from nuclei.inference.predict_inputs import Settings, predict_inputs

    how = args.device, args.threads, args.precision, args.tta, args.neighbours
    settings = Settings(args.mpp, args.detector, args.features, *how)
    predict_inputs(args.models, args.inputs, args.nuclei, args.out, settings)


def detect(args: argparse.Namespace) -> None:
    """Find the nuclei of a tile or slide.

    Writes SLIDE_nuclei.csv, with positions in pixels and areas, SLIDE_nuclei.geojson, outlines which QuPath opens and
    `nuclei predict --nuclei` reads, and SLIDE_nuclei_run.json, which tells what they were made of.
    """
    from nuclei.inference.detect import DIAMETER, detect_in_slide

    low, high = args.diameter or DIAMETER
    if low >= high:
        raise InputError(f"--diameter {low:g} {high:g}: expected the smaller one first")
    _require_writable(args.out)
    count, paths = detect_in_slide(args.slide, args.out, args.mpp, args.detector, (low, high))
    print(one_line(f"{args.slide}: {count:,} nuclei; written: {', '.join(map(str, paths))}"))


def export(args: argparse.Namespace) -> None:
    """Write a model as ONNX: uint8 crops in, probabilities out."""
    from nuclei.files import require_distinct, require_writable_file

    _require_writable(args.out.parent)
    require_writable_file(args.out)
    require_distinct([args.out], [args.model])
    if args.out.exists() and args.out.suffix.lower() != ".onnx":
        raise InputError(f"{args.out}: exists and is not an .onnx file: give another name")
    try:
        from nuclei.inference.onnx import export_onnx
    except ImportError:
        raise InputError("nuclei export needs ONNX and ONNX Runtime: pip install -e '.[onnx]'") from None
    from nuclei.models.checkpoint import load_model

    difference = export_onnx(load_model(args.model), args.out)
    print(one_line(f"{args.out}: probabilities differ from PyTorch's by {difference:.1e} at most"))


def doctor(args: argparse.Namespace) -> None:
    """Say what this machine has for the pipeline, what it lacks, and how to mend it; nobody is contacted."""
    from nuclei.doctor import examine, is_fit, screen

    checks = examine(Path())
    print(screen(checks))
    if not is_fit(checks):
        sys.exit(1)


def import_set(args: argparse.Namespace) -> None:
    """Turn a public set of nuclei into the files of the competition: train.zip, train.csv, test.zip, example.csv.

    groups.csv comes with them: the tile, or the patient, of each crop.
    """
    _require_new(args.out)

    from nuclei.data.public.consep import import_consep
    from nuclei.data.public.nucls import import_nucls
    from nuclei.data.public.pannuke import import_pannuke

    if args.set == "consep":
        table = import_consep(args.archives, args.out, args.seed, args.classes, args.split == "official")
    elif args.set == "nucls":
        table = import_nucls(args.archives, args.out, args.seed)
    else:
        table = import_pannuke(args.archives, args.out, args.seed, args.tissue)
    classes = table.drop_duplicates("label").sort_values("label").name
    for role, crops in table.groupby("role"):
        print(one_line(f"{args.out}, {role}: {_count(crops.name.value_counts().reindex(classes, fill_value=0))}"))
    if tuple(classes) != CLASSES:
        print(one_line(f"next: dvc exp run -S data.raw={args.out} -S classes=null"))


def import_labelled(args: argparse.Namespace) -> None:
    """Turn labelled nuclei of your own into the files of the competition, with groups.csv, and say how to go on."""
    _require_new(args.out)

    from nuclei.data.folders import import_folders
    from nuclei.data.points import Settings, import_points

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is reported here, or does no harm
    if args.set == "folders":
        table, classes = import_folders(args.folder, args.out, args.test_share, args.seed)
        mpp = None
    else:
        cuts = args.size, args.mpp, args.slide_mpp, args.group, args.border
        settings = Settings(*cuts, args.test_share, args.seed, args.classes)
        table, classes, notes = import_points(args.slides, args.points, args.out, settings)
        mpp = args.mpp
        for note in notes:
            warn(note)
    for role, crops in table.groupby("role"):
        print(one_line(f"{args.out}, {role}: {_count(crops.label.value_counts().reindex(classes, fill_value=0))}"))
    resolution = f" -S data.mpp={mpp:g}" if mpp else ""
    print(one_line(f"next: dvc exp run -S data.raw={args.out} -S classes=null{resolution}"))


def relabel(args: argparse.Namespace) -> None:
    """Write labels that were corrected in a spreadsheet or QuPath into a copy of the data, with a record of them.

    Of to_correct.csv, the answers in the column Corrected count; of GeoJSON, the classifications. corrections.csv in
    the new folder says which labels changed, by which file, in this and all earlier rounds.
    """
    _require_new(args.out)

    from nuclei.data.relabel import count_changes
    from nuclei.data.relabel import relabel as write_relabelled

    changes = write_relabelled(args.raw, args.corrected, args.out, args.classes)
    if changes.empty:
        print(one_line(f"{args.raw}: has all these labels already, nothing was written"))
        return
    print(one_line(f"{args.out}: {len(changes):,} labels changed: {count_changes(changes)}"))
    print(one_line(f"next: dvc exp run -S data.raw={args.out}"))


def example(args: argparse.Namespace) -> None:
    """Draw tiles of synthetic tissue, each with its labelled nuclei as QuPath's GeoJSON, and one table of all."""
    _require_new(args.out)

    from nuclei.data.synthetic.example import write_example

    table = write_example(args.out, args.tiles, args.seed)
    print(one_line(f"{args.out}: {args.tiles:,} tiles with {len(table):,} labelled nuclei"))


def _count(counts: Any) -> str:
    """Say how many there are of each class; counts: a Series by name."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _require_new(folder: Path) -> None:
    """Raise InputError, before any work, where a new folder could not be made."""
    from nuclei.files import require_replaceable

    require_replaceable(folder)
    _require_writable(folder.parent)


def _require_writable(folder: Path) -> None:
    """Raise InputError, before hours of work, where nothing could be written into a folder, there or yet to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{folder}: {existing} is not a folder that can be written to: give another one")


if __name__ == "__main__":
    main()
