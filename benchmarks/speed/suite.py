"""Measure the seed's way against ours: `python -m benchmarks [QUESTION ...]`. See README, "How fast it is"."""

import argparse
import os
import platform
import shutil
import tempfile
from collections import defaultdict
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.measure import measure
from benchmarks.report import ONCE, ROWS, Row, plot_results, print_table, summarise
from benchmarks.setting import PROJECT, Setting, prepare
from nuclei.device import processor
from nuclei.figures import save_figure
from nuclei.files import write_json

SIZES = (1_000, 4_000, 16_000, 64_000)  # crops, of the growth question
QUESTIONS = [*dict.fromkeys(row.question for row in ROWS), "growth"]
USUAL = [question for question in QUESTIONS if question != "compile"]  # its measurements take minutes each
ALONE = "accuracy"  # takes as long as all others: only done when asked for


def main() -> None:
    options = parse()
    if options.questions == [ALONE]:
        answer_accuracy(options)
    else:
        answer(options, options.questions or USUAL)


def answer(options: argparse.Namespace, questions: list[str]) -> None:
    rows = [row for row in ROWS if row.question in questions and is_there(row)]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        setting = Setting(Path(folder), options.device, options.threads, options.quick)
        print(f"preparing {options.train:,} training and {options.test:,} test crops", flush=True)
        prepare(setting.folder, options.raw, options.train, options.test)
        ceiling, figures = measure_rows(rows, setting, options.repeats)
        sizes = tuple(size for size in SIZES if size <= options.largest)
        grown = measure_growth(setting, sizes) if "growth" in questions else {}
    results = {
        "machine": describe_machine(options)
        | {
            "crops": {
                "train": options.train,
                "test": options.test,
                "of": "raw" if options.raw else "the built-in sample",
            },
            "repeats": options.repeats,
        },
        "ceiling": ceiling,
        "rows": summarise(rows, figures, ceiling["convolution bfloat16"]),
        "growth": grown,
        "measurements": figures,
    }
    print_table(results)
    if not options.questions:
        write_json(options.out / "results.json", results)
        save_figure(plot_results(results), options.out / "results.png")


def answer_accuracy(options: argparse.Namespace) -> None:
    from benchmarks import accuracy  # takes seconds to import: only where it is needed

    size = accuracy.Size(**{field.name: getattr(options, field.name) for field in fields(accuracy.Size)})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        setting = Setting(Path(folder), options.device, options.threads)
        trainings = accuracy.measure_accuracy(setting, options.raw, size)
    summary = accuracy.summarise(trainings)
    accuracy.print_summary(summary)
    machine = describe_machine(options)
    write_json(options.out / "accuracy.json", {"machine": machine, "summary": summary, "trainings": trainings})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choices = f"some of {', '.join(QUESTIONS)}; without: all but compile; or {ALONE}, by itself"
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=choices)
    parser.add_argument("--raw", type=Path, help="a folder with the four files; without: the built-in sample")
    parser.add_argument("--train", type=int, help="crops, at most (400; quick: 256)")
    parser.add_argument("--test", type=int, help="crops, at most (200; quick: 100)")
    parser.add_argument("--repeats", type=int, help=f"of each measurement (2; quick, {', '.join(ONCE)}: 1)")
    parser.add_argument("--largest", type=int, help="crops, of the growth question (16000; quick: 4000)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU (all)")
    parser.add_argument("--quick", action="store_true", help="few crops, once: does it run?")
    where = "where results.json and .png, or accuracy.json go"
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks", help=where)
    parser.add_argument("--scratch", type=Path, help="where some 7 GB may be written for a while (the system's /tmp)")
    sizes = parser.add_argument_group(ALONE)
    for name, default, what in (
        ("epochs", 4, "that both ways train for"),
        ("seeds", 3, "trainings of each kind"),
        ("cnn", 1200, "crops that the CNN is trained on, at most"),
        ("resnet", 480, "crops that the ResNet18 is trained on, at most"),
        ("validation", 400, "crops that pick the epoch, at most"),
        ("holdout", 1000, "crops that are only measured on, at most"),
    ):
        sizes.add_argument(f"--{name}", type=int, default=default, help=f"{what} (%(default)s)")
    options = parser.parse_args()
    for name, full, quick in (("train", 400, 256), ("test", 200, 100), ("repeats", 2, 1), ("largest", 16_000, 4_000)):
        setattr(options, name, getattr(options, name) or (quick if options.quick else full))
    for question in options.questions:
        if question not in QUESTIONS and options.questions != [ALONE]:
            parser.error(f"no question {question}: choose from {', '.join(QUESTIONS)}; or {ALONE}, by itself")
    return options


def is_there(row: Row) -> bool:
    """Whether the row can be measured here; says so if not."""
    if row.module == "peers" and not find_spec(row.seed):
        print(f"{row.title}: left out, not installed (uv run --group bench python -m benchmarks)")
        return False
    if row.ours.startswith("compiled") and not (torch.cuda.is_available() or shutil.which("g++")):
        print(f"{row.title}: left out (needs a C++ compiler)")
        return False
    return True


def measure_rows(
    rows: list[Row], setting: Setting, repeats: int
) -> tuple[dict[str, float], dict[str, dict[str, list]]]:
    """Measure every way of `rows`, one process after another; within a question the ways take turns.

    Returns the ceiling, the best of those measured before each question, and the figures: of each question,
    of each way, of each repeat.
    """
    ways: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for row in rows:
        ways[row.question] |= dict.fromkeys(row.ways())
    figures: dict[str, dict[str, list]] = {question: {} for question in ways}
    ceilings = [measure("ceiling", "ceiling", setting)["notes"]]
    runs = [
        (question, way)
        for question in ways
        for _ in range(1 if question in ONCE else repeats)
        for way in ways[question]
    ]
    asked = next(iter(ways), "")
    bar = tqdm(runs, unit="measurement")
    for question, (module, way) in bar:
        bar.set_postfix_str(f"{question}: {way}")
        if question != asked:
            asked = question
            ceilings.append(measure("ceiling", "ceiling", setting)["notes"])
        figures[question].setdefault(f"{module}: {way}", []).append(measure(module, way, setting))
    return {name: max(rates[name] for rates in ceilings) for name in ceilings[0]}, figures


def measure_growth(setting: Setting, sizes: tuple[int, ...]) -> dict[str, list[dict[str, Any]]]:
    """Measure each way of growth.py once a size: crops, and what `measure` returns; units: each crop each time."""
    from benchmarks import growth  # takes seconds to import: only where it is needed

    grown: dict[str, list[dict[str, Any]]] = {name: [] for name in growth.WAYS}
    for crops in tqdm(sizes, unit="size"):
        folder = setting.folder / "grown"
        growth.enlarge(setting, folder, crops)
        for name, measured in grown.items():
            figures = measure("growth", name, replace(setting, folder=folder))
            kept = ("seconds", "cpu_seconds", "units", "memory")
            measured.append({"crops": crops} | {key: figures[key] for key in kept})
        shutil.rmtree(folder)
    return grown


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "bfloat16": [name for name, there in torch.cpu.get_capabilities().items() if "bf16" in name and there],
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "captum", "ray", "pillow", "numpy")},
    }


if __name__ == "__main__":
    main()
