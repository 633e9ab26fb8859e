"""What is compared, and what the measurements come to: a table and a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.markdown import markdown_table

BASELINE = "the baseline"
LIMITS = {"decoding": "decoding alone", "tuning": "training alone"}
FLOP_LIMIT = "bf16 convolutions"
ONCE = ("tuning", "pipeline")  # benchmarks that are measured once: long enough to be steady
COLOURS = {"ratio": "#0072B2", "goal": "#D55E00"}


@dataclass(frozen=True)
class Comparison:
    """One line of the table: two implementations of benchmarks.speed.<module>, and one that shows the limit.

    baseline, project: names in IMPLEMENTATIONS of what is compared with, and of what is measured
    against: what the baseline is called in the table
    limit: name of the implementation that does nothing but what cannot be avoided
    start: name of one whose time is taken off the project's before that is compared with the limit
    goal: what the ratio was to be
    """

    benchmark: str
    title: str
    unit: str
    module: str
    baseline: str = "baseline"
    project: str = "project"
    against: str = BASELINE
    limit: str | None = None
    start: str | None = None
    goal: float | None = None

    def implementations(self) -> list[tuple[str, str]]:
        """Module and name of all that has to be measured: baseline, project, limit, start."""
        module = "training" if self.module == "frameworks" else self.module
        more = [(self.module, name) for name in (self.limit, self.start) if name]
        return [(self.module, self.baseline), (module, self.project), *more]


NETWORKS = {"cnn": "CNN", "resnet": "ResNet18"}
COMPARISONS = [
    Comparison("decoding", "zips to arrays", "crops", "decoding", limit="limit"),
    Comparison("training", "CNN: training epoch", "crops", "training", "baseline cnn", "project cnn", goal=15),
    Comparison(
        "training", "ResNet18: training epoch", "crops", "training", "baseline resnet", "project resnet", goal=6
    ),
    *(
        Comparison(
            "training",
            "ResNet18: training epoch",
            "crops",
            "frameworks",
            framework,
            "project resnet",
            framework.capitalize(),
        )
        for framework in ("lightning", "ultralytics")
    ),
    *(
        Comparison(
            "validation",
            f"{title}: validation",
            "crops",
            "predicting",
            f"baseline validates {name}",
            f"project validates {name}",
        )
        for name, title in NETWORKS.items()
    ),
    *(
        Comparison(
            "prediction",
            f"{title}: {what}",
            "crops",
            "predicting",
            f"baseline predicts {name}",
            f"project {how} {name}",
            goal=goal,
        )
        for name, title in NETWORKS.items()
        for what, how, goal in (
            ("prediction", "predicts", 6),
            ("prediction, mean of 8 views", "predicts averaged", None),
        )
    ),
    Comparison("occlusion", "ResNet18: occlusion maps", "crops", "occlusion", against="Captum's default", goal=6),
    Comparison(
        "occlusion",
        "ResNet18: occlusion maps in float32",
        "crops",
        "occlusion",
        project="project float32",
        against="Captum's default",
    ),
    Comparison("tuning", "tuning", "trials", "tuning", limit="alone", start="start"),
    Comparison("overlap", "crops that share pixels", "crops", "overlap", against="all pairs"),
    *(
        Comparison(
            "compile",
            f"{title}: epoch with torch.compile",
            "crops",
            "training",
            f"project {name}",
            f"compiled {name}",
            "without",
        )
        for name, title in NETWORKS.items()
    ),
    Comparison("pipeline", "zips to submissions, tuned", "crops", "pipeline", goal=8),
]


def summarise(
    comparisons: Sequence[Comparison], measurements: dict[str, dict[str, list]], ceiling: float
) -> list[dict[str, Any]]:
    """Return of each comparison: units per second of both, their ratio, that of the CPU time, the share of the limit.

    All are medians of the repeats.

    Args:
        comparisons: what was measured.
        measurements: of each benchmark, of each "module: implementation", what `measure` returned each time.
        ceiling: FLOP/s, the limit of an implementation that says how much it computes.
    """
    lines = []
    for comparison in comparisons:
        of_benchmark = measurements[comparison.benchmark]
        baseline, project, *others = (
            of_benchmark[f"{module}: {name}"] for module, name in comparison.implementations()
        )
        rates = [median(run["units"] / run["seconds"] for run in runs) for runs in (baseline, project)]
        cpu_rates = [median(run["units"] / run["cpu_seconds"] for run in runs) for runs in (baseline, project)]
        share = rates[1] * project[0]["flop"] / ceiling or None
        if comparison.limit:
            start = median(run["seconds"] for run in others[1]) if comparison.start else 0
            without_start = median(run["units"] / (run["seconds"] - start) for run in project)
            share = without_start / median(run["units"] / run["seconds"] for run in others[0])
        lines.append(
            {
                "title": comparison.title,
                "unit": comparison.unit,
                "against": comparison.against,
                "baseline": rates[0],
                "project": rates[1],
                "ratio": rates[1] / rates[0],
                "goal": comparison.goal,
                "cpu_ratio": cpu_rates[1] / cpu_rates[0],
                "limit": LIMITS.get(comparison.benchmark, FLOP_LIMIT if project[0]["flop"] else None),
                "share_of_limit": share,
                "memory_baseline": max(run["memory"] or 0 for run in baseline),
                "memory_project": max(run["memory"] or 0 for run in project),
            }
            | project[0]["notes"]
        )
    return lines


def print_results(results: dict[str, Any]) -> None:
    """Print all as Markdown."""
    machine = results["machine"]
    print(
        f"\n{machine['processor']}, {machine['threads']} threads, {machine['device']}; torch {machine['torch']}; "
        f"{machine['crops']['train']:,} training and {machine['crops']['test']:,} test crops of "
        f"{machine['crops']['of']}; medians of {machine['repeats']}, {' and '.join(ONCE)} once\n"
    )
    ceilings = (f"{name} {rate / 1e9:,.0f} {_unit(name)}" for name, rate in results["ceiling"].items())
    print(f"ceiling: {', '.join(ceilings)}\n")
    print(markdown_table(HEADER, map(_cells, results["rows"])))
    if results["growth"]:
        sizes = [run["crops"] for run in next(iter(results["growth"].values()))]
        rows = [
            [name, *(f"{1000 * run['seconds'] / run['units']:.2f}, {run['memory'] / 2**30:.2f} GB" for run in runs)]
            for name, runs in results["growth"].items()
        ]
        header = ["milliseconds per crop, memory at", *(f"{size:,} crops" for size in sizes)]
        print(f"\n{markdown_table(header, rows)}")


HEADER = (
    "",
    "against",
    "baseline",
    "this project",
    "ratio",
    "goal",
    "ratio, CPU time",
    "share of the limit",
    "memory, baseline",
    "memory, this project",
)


def _cells(line: dict[str, Any]) -> list[str]:
    return [
        line["title"],
        line["against"],
        *(f"{_short(line[name])} {line['unit']}/s" for name in ("baseline", "project")),
        f"**{line['ratio']:.1f}x**",
        f"{line['goal']}x" if line["goal"] else "",
        f"{line['cpu_ratio']:.1f}x",
        f"{line['share_of_limit']:.0%} of {line['limit']}" if line["share_of_limit"] else "",
        *(f"{line[name] / 2**30:.1f} GB" for name in ("memory_baseline", "memory_project")),
    ]


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _unit(name: str) -> str:
    return "GB/s" if name == "memory" else "GFLOP/s"


def plot_results(results: dict[str, Any]) -> Figure:
    """Draw the ratios, and how time and memory grow."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    _draw_ratios(left.subplots(), results["rows"])
    upper, lower = right.subplots(2, sharex=True)
    for name, runs in results["growth"].items():
        sizes = [run["crops"] for run in runs]
        upper.plot(sizes, [1000 * run["seconds"] / run["units"] for run in runs], marker="o", label=name)
        lower.plot(sizes, [run["memory"] / 2**30 for run in runs], marker="o")
    upper.set(title="time per crop, ms", xscale="log", ylim=(0, None))
    lower.set(title="memory above the interpreter's, GB", xlabel="crops", ylim=(0, None))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _draw_ratios(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    heights = range(len(rows))
    axes.barh(heights, [row["ratio"] for row in rows], color=COLOURS["ratio"])
    for height, row in zip(heights, rows, strict=True):
        axes.text(max(row["ratio"], row["goal"] or 0), height, f" {row['ratio']:.1f}x", va="center")
        if row["goal"]:
            axes.plot([row["goal"]] * 2, [height - 0.4, height + 0.4], color=COLOURS["goal"], linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    labels = [row["title"] + ("" if row["against"] == BASELINE else f"\n(against {row['against']})") for row in rows]
    axes.set_yticks(heights, labels)
    axes.invert_yaxis()
    axes.set(xscale="log", title=f"times as fast as {BASELINE} (orange: the goal)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
