"""The command `nuclei`: predict, export, import."""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from nuclei.errors import InputError, run


def main() -> None:
    args = parse(sys.argv[1:])
    run(lambda: args.action(args))


def parse(words: list[str]) -> argparse.Namespace:
    """Turn the words of a command line into options; `action` is the function that does what was asked for."""
    parser = argparse.ArgumentParser(prog="nuclei", description="Tell the type of nuclei in H&E-stained colon tissue.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('nuclei')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("predict", help="classify crops, or the nuclei of a tile or slide")
    command.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="several: they are averaged")
    command.add_argument("input", type=Path, metavar="INPUT", help="a crop, a folder or zip of crops, a tile, a slide")
    command.add_argument("--nuclei", type=Path, metavar="FILE", help="of a tile or slide: CSV with x and y, or GeoJSON")
    command.add_argument("--mpp", type=_between(0.01, 10.0), help="microns a pixel; default: the file's, or else 0.25")
    command.add_argument("--out", type=Path, default="predictions", metavar="FOLDER", help="default: %(default)s")
    command.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help="average flips and turns")
    command.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    command.add_argument("--threads", type=_between(1, 1024), help="of the CPU; default: all")
    command.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    command.set_defaults(action=predict)

    command = commands.add_parser("export", help="write a model as ONNX: uint8 crops in, probabilities out")
    command.add_argument("model", type=Path, metavar="MODEL")
    command.add_argument("out", type=Path, metavar="FILE.onnx")
    command.set_defaults(action=export)

    command = commands.add_parser("import", help="turn a public set of nuclei into the files of the competition")
    sets = command.add_subparsers(required=True, metavar="SET", dest="set")
    for name in ("consep", "nucls", "pannuke"):
        command = sets.add_parser(name)
        if name == "pannuke":
            command.add_argument("--tissue", default="Colon", help="as PanNuke names it; default: %(default)s")
        command.add_argument(
            "archives", type=Path, nargs="+", metavar="ARCHIVE", help="zips as their authors ship them"
        )
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new one")
        command.add_argument(
            "--seed", type=_between(0, 2**31 - 1), default=0, help="of the split; default: %(default)s"
        )
        command.set_defaults(action=import_set)
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
    from nuclei.classifier import load_classifier
    from nuclei.cut import MPP
    from nuclei.images import open_image
    from nuclei.predictions import predict_crops, predict_nuclei

    classifier = load_classifier(args.models, args.device, args.threads, args.precision, args.tta)
    stem = args.out / args.input.stem
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
    counts = [f"{(labels == label).sum():,} {name}" for label, name in enumerate(classifier.classes)]
    print(f"{args.input}: {', '.join(counts)}; written: {', '.join(map(str, paths))}")


def export(args: argparse.Namespace) -> None:
    try:
        from nuclei.export import export_onnx
    except ImportError:
        raise InputError("nuclei export needs ONNX and ONNX Runtime: pip install 'nuclei[onnx]'") from None
    from nuclei.models import load_model

    difference = export_onnx(load_model(args.model), args.out)
    print(f"{args.out}: probabilities differ from PyTorch's by {difference:.1e} at most")


def import_set(args: argparse.Namespace) -> None:
    from nuclei.classes import CLASSES
    from nuclei.datasets.consep import import_consep
    from nuclei.datasets.nucls import import_nucls
    from nuclei.datasets.pannuke import import_pannuke

    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        raise InputError(f"{args.out}: there already: give a new folder, so that nothing of yours is replaced")
    if args.set == "consep":
        table = import_consep(args.archives, args.out, args.seed)
    elif args.set == "nucls":
        table = import_nucls(args.archives, args.out, args.seed)
    else:
        table = import_pannuke(args.archives, args.out, args.seed, args.tissue)
    for role, crops in table.groupby("role"):
        counts = [f"{(crops.label == label).sum():,} {name}" for label, name in enumerate(CLASSES)]
        print(f"{args.out}, {role}: {', '.join(counts)}")


if __name__ == "__main__":
    main()
