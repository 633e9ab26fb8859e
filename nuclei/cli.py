"""The command `nuclei`: predict, export, import, doctor."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from nuclei.errors import InputError, run
from nuclei.task import CLASSES

SETS = {
    "consep": "CoNSeP, colon: what the competition's crops were cut from",
    "nucls": "NuCLS, breast",
    "pannuke": "PanNuke, 19 tissues",
}


def main() -> None:
    run(lambda: act(sys.argv[1:]))


def act(words: list[str]) -> None:
    """Do what the words of a command line ask for. Raises InputError."""
    args = parse(words)
    args.action(args)


class Parser(argparse.ArgumentParser):
    """Answers a wrong command line as any other bad input is answered: with one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help")


def parse(words: list[str]) -> argparse.Namespace:
    """Turn words into options; `action` is the function that does what was asked for. Raises InputError."""
    parser = Parser(prog="nuclei", description="Tell the type of nuclei in H&E-stained colon tissue.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('nuclei')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "classify crops, or the nuclei of a tile or slide"
    command = commands.add_parser("predict", help=about, description=predict.__doc__)
    command.add_argument("models", type=Path, nargs="+", metavar="MODEL", help=".safetensors; several are averaged")
    command.add_argument("input", type=Path, metavar="INPUT", help="a crop, a folder or zip of crops, a tile, a slide")
    command.add_argument("--nuclei", type=Path, metavar="FILE", help="of a tile or slide: CSV with x and y, or GeoJSON")
    about = "microns a pixel; default: what the tile or slide says, or else 0.25"
    command.add_argument("--mpp", type=_between(0.01, 10.0), metavar="N", help=about)
    command.add_argument("--out", type=Path, default="predictions", metavar="FOLDER", help="default: %(default)s")
    about = "average over eight flips and turns, or not; default: yes"
    command.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help=about)
    about = "default: cuda, else mps, else cpu"
    command.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help=about)
    command.add_argument("--threads", type=_between(1, 1024), metavar="N", help="of the CPU; default: all")
    about = "default: bfloat16 where the device computes in it"
    command.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=about)
    command.set_defaults(action=predict)

    about = "write a model as ONNX: uint8 crops in, probabilities out"
    command = commands.add_parser("export", help=about, description=export.__doc__)
    command.add_argument("model", type=Path, metavar="MODEL", help=".safetensors")
    command.add_argument("out", type=Path, metavar="FILE", help=".onnx, to be written")
    command.set_defaults(action=export)

    about = "turn a public set of nuclei into the files of the competition"
    command = commands.add_parser("import", help=about, description=import_set.__doc__)
    sets = command.add_subparsers(required=True, metavar="SET", dest="set")
    for name, title in SETS.items():
        command = sets.add_parser(name, help=title, description=f"{title}.")
        if name == "pannuke":
            command.add_argument("--tissue", default="Colon", help="as PanNuke names it; default: %(default)s")
        command.add_argument("archives", type=Path, nargs="+", metavar="ZIP", help="as its authors ship it")
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new one")
        about = "of the split into training and test; default: %(default)s"
        command.add_argument("--seed", type=_between(0, 2**31 - 1), default=0, metavar="N", help=about)
        command.set_defaults(action=import_set)

    about = "say what this machine has, what it lacks, and how to mend it"
    command = commands.add_parser("doctor", help=about, description=doctor.__doc__)
    command.set_defaults(action=doctor)
    return parser.parse_args(words)


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

    Writes INPUT_predictions.csv, with calibrated probabilities; with --nuclei, also INPUT_predictions.geojson, which
    QuPath opens, and INPUT_overlay.png.
    """
    from nuclei.data.images import open_image
    from nuclei.inference.classifier import load_classifier
    from nuclei.inference.predict_files import predict_crops, predict_nuclei
    from nuclei.task import MPP

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is reported here, or does no harm
    _require_writable(args.out)
    classifier = load_classifier(args.models, args.device, args.threads, args.precision, args.tta)
    stem = args.out / args.input.absolute().stem  # "." has a name too
    paths = [stem.with_name(f"{stem.name}_{end}") for end in ("predictions.csv", "predictions.geojson", "overlay.png")]
    if args.nuclei:
        with open_image(args.input) as image:
            mpp = args.mpp or image.mpp
            if not mpp:
                print(f"{args.input} does not tell its resolution: taken for {MPP} microns a pixel (40x); see --mpp")
            labels = predict_nuclei(classifier, image, args.nuclei, mpp or MPP, *paths)
    else:
        labels = predict_crops(classifier, args.input, args.mpp or MPP, paths[0])
        paths = paths[:1]
    print(f"{args.input}: {_count(labels)}; written: {', '.join(map(str, paths))}")


def export(args: argparse.Namespace) -> None:
    """Write a model as ONNX: uint8 crops in, probabilities out."""
    _require_writable(args.out.parent)
    if args.out.is_dir():
        raise InputError(f"{args.out}: a folder: name the file to be written")
    try:
        from nuclei.inference.onnx import export_onnx
    except ImportError:
        raise InputError("nuclei export needs ONNX and ONNX Runtime: pip install -e '.[onnx]'") from None
    from nuclei.models.checkpoint import load_model

    difference = export_onnx(load_model(args.model), args.out)
    print(f"{args.out}: probabilities differ from PyTorch's by {difference:.1e} at most")


def doctor(args: argparse.Namespace) -> None:
    """Say what this machine has for the pipeline, what it lacks, and how to mend it. Contacts nobody."""
    from nuclei.doctor import examine, is_fit, screen

    checks = examine(Path())
    print(screen(checks))
    if not is_fit(checks):
        sys.exit(1)


def import_set(args: argparse.Namespace) -> None:
    """Turn a public set of nuclei into the files of the competition: train.zip, train.csv, test.zip, example.csv.

    groups.csv comes with them: the tile, or the patient, of each crop.
    """
    from nuclei.data.public.consep import import_consep
    from nuclei.data.public.nucls import import_nucls
    from nuclei.data.public.pannuke import import_pannuke

    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        raise InputError(f"{args.out}: there already: give a new folder, so that nothing of yours is replaced")
    _require_writable(args.out.parent)
    if args.set == "consep":
        table = import_consep(args.archives, args.out, args.seed)
    elif args.set == "nucls":
        table = import_nucls(args.archives, args.out, args.seed)
    else:
        table = import_pannuke(args.archives, args.out, args.seed, args.tissue)
    for role, crops in table.groupby("role"):
        print(f"{args.out}, {role}: {_count(crops.label)}")


def _count(labels: Any) -> str:
    """Say how many there are of each class; labels: an array or column of int."""
    return ", ".join(f"{(labels == label).sum():,} {name}" for label, name in enumerate(CLASSES))


def _require_writable(folder: Path) -> None:
    """Raise InputError, before hours of work, where nothing could be written into a folder, there or yet to be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{folder}: {there} is not a folder that can be written to: give another one")


if __name__ == "__main__":
    main()
