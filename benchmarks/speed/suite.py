"""Measure the baseline against this project: `python -m benchmarks [BENCHMARK ...]`. See docs/performance.md."""

import argparse
import os
import shutil
import tempfile
from collections import defaultdict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.measure import measure
from benchmarks.speed.table import COMPARISONS, ONCE, Comparison, plot_results, print_results, summarise
from benchmarks.workspace import RESULTS, Workspace, prepare
from nuclei.figures import save_figure
from nuclei.files import write_json

SIZES = (1_000, 4_000, 16_000, 64_000)  # crops, of the benchmark "growth"
BENCHMARKS = [*dict.fromkeys(comparison.benchmark for comparison in COMPARISONS), "growth"]
DEFAULT = [benchmark for benchmark in BENCHMARKS if benchmark != "compile"]  # its measurements take minutes each


def main() -> None:
    options = parse()
    benchmarks = options.benchmarks or DEFAULT
    comparisons = [each for each in COMPARISONS if each.benchmark in benchmarks and can_be_measured(each)]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        workspace = Workspace(Path(folder), options.device, options.threads, options.quick)
        print(f"preparing at most {options.train:,} training and {options.test:,} test crops", flush=True)
        prepare(workspace.folder, options.raw, options.train, options.test)
        crops: dict[str, Any] = {part: len(workspace.index(part)) for part in ("train", "test")}
        ceiling, measurements = measure_all(comparisons, workspace, options.repeats)
        sizes = tuple(size for size in SIZES if size <= options.largest)
        growth = measure_growth(workspace, sizes) if "growth" in benchmarks else {}
    crops["of"] = "raw" if options.raw else "the built-in sample"
    results = {
        "machine": describe_machine(options.device, options.threads) | {"crops": crops, "repeats": options.repeats},
        "ceiling": ceiling,
        "rows": summarise(comparisons, measurements, ceiling["convolution bfloat16"]),
        "growth": growth,
        "measurements": measurements,
    }
    print_results(results)
    if not options.benchmarks:
        write_json(options.out / "speed.json", results)
        save_figure(plot_results(results), options.out / "speed.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choices = f"any of {', '.join(BENCHMARKS)}; default: all but compile"
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=choices)
    parser.add_argument("--raw", type=Path, help="folder with the four files; default: the built-in sample")
    parser.add_argument("--train", type=int, help="training crops, at most (400; quick: 256)")
    parser.add_argument("--test", type=int, help="test crops, at most (200; quick: 100)")
    parser.add_argument("--repeats", type=int, help=f"of each measurement (2; quick, {', '.join(ONCE)}: 1)")
    parser.add_argument("--largest", type=int, help="crops, of growth (16000; quick: 4000)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="number of CPU threads (all)")
    parser.add_argument("--quick", action="store_true", help="few crops, once: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for speed.json and speed.png")
    parser.add_argument("--scratch", type=Path, help="folder for about 7 GB of temporary files (the system's)")
    options = parser.parse_args()
    for name, full, quick in (("train", 400, 256), ("test", 200, 100), ("repeats", 2, 1), ("largest", 16_000, 4_000)):
        setattr(options, name, getattr(options, name) or (quick if options.quick else full))
    for benchmark in options.benchmarks:
        if benchmark not in BENCHMARKS:
            parser.error(f"no benchmark {benchmark}: choose from {', '.join(BENCHMARKS)}")
    return options


def can_be_measured(comparison: Comparison) -> bool:
    """Return whether all that it needs is installed; print what is not."""
    if comparison.module == "frameworks" and not find_spec(comparison.baseline):
        print(f"{comparison.title}: left out, not installed (uv run --group bench python -m benchmarks)")
        return False
    if comparison.project.startswith("compiled") and not (torch.cuda.is_available() or shutil.which("g++")):
        print(f"{comparison.title}: left out (needs a C++ compiler)")
        return False
    return True


def measure_all(
    comparisons: list[Comparison], workspace: Workspace, repeats: int
) -> tuple[dict[str, float], dict[str, dict[str, list]]]:
    """Measure every implementation, one process after another; within a benchmark they alternate.

    Returns:
        The ceiling, the best of those measured before each benchmark; and the measurements: of each benchmark, of each
        "module: implementation", of each repeat.
    """
    implementations: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for comparison in comparisons:
        implementations[comparison.benchmark] |= dict.fromkeys(comparison.implementations())
    measurements: dict[str, dict[str, list]] = {benchmark: {} for benchmark in implementations}
    ceilings = [measure("machine", "ceiling", workspace)["notes"]]
    runs = [
        (benchmark, implementation)
        for benchmark in implementations
        for _ in range(1 if benchmark in ONCE else repeats)
        for implementation in implementations[benchmark]
    ]
    current = next(iter(implementations), "")
    bar = tqdm(runs, unit="measurement")
    for benchmark, (module, name) in bar:
        bar.set_postfix_str(f"{benchmark}: {name}")
        if benchmark != current:
            current = benchmark
            ceilings.append(measure("machine", "ceiling", workspace)["notes"])
        figures = measure(f"speed.{module}", name, workspace)
        measurements[benchmark].setdefault(f"{module}: {name}", []).append(figures)
    return {name: max(rates[name] for rates in ceilings) for name in ceilings[0]}, measurements


def measure_growth(workspace: Workspace, sizes: tuple[int, ...]) -> dict[str, list[dict[str, Any]]]:
    """Measure each implementation of growth.py once per size.

    Returns:
        Of each implementation, of each size, the number of crops and what `measure` returns; its units are crops.
    """
    from benchmarks.speed import growth  # takes seconds to import: only where it is needed

    measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in growth.IMPLEMENTATIONS}
    for crops in tqdm(sizes, unit="size"):
        folder = workspace.folder / "enlarged"
        growth.enlarge(workspace, folder, crops)
        for name, of_sizes in measurements.items():
            figures = measure("speed.growth", name, replace(workspace, folder=folder))
            of_sizes.append({"crops": crops} | {key: figures[key] for key in GROWTH_FIGURES})
        shutil.rmtree(folder)
    return measurements


GROWTH_FIGURES = ("seconds", "cpu_seconds", "units", "memory")
