"""What the measurements come to: a table and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

SEED = "the seed's way"
LIMITS = {"decoding": "decoding alone", "tuning": "training alone"}
FLOP_LIMIT = "bf16 convolutions"
ONCE = ("tuning", "pipeline")  # questions that are measured once: long enough to be steady
COLOURS = {"ours": "#0072B2", "goal": "#D55E00"}


@dataclass(frozen=True)
class Row:
    """One line of the table: two ways of benchmarks.<module> and, where one is, the way that shows the limit.

    start: a way whose time is taken off ours before that is compared with the limit
    goal: what the ratio was to be
    """

    question: str
    title: str
    unit: str
    module: str
    seed: str = "seed"
    ours: str = "ours"
    against: str = SEED
    limit: str | None = None
    start: str | None = None
    goal: float | None = None

    def ways(self) -> list[tuple[str, str]]:
        """Module and way of all that has to be measured: theirs, ours, the limit, the start."""
        ours = "training" if self.module == "peers" else self.module
        more = [(self.module, way) for way in (self.limit, self.start) if way]
        return [(self.module, self.seed), (ours, self.ours), *more]


NETWORKS = {"cnn": "CNN", "resnet": "ResNet18"}
ROWS = [
    Row("decoding", "zips to arrays", "crops", "decoding", limit="limit"),
    Row("training", "CNN: training epoch", "crops", "training", "seed cnn", "ours cnn", goal=15),
    Row("training", "ResNet18: training epoch", "crops", "training", "seed resnet", "ours resnet", goal=6),
    *(
        Row("training", "ResNet18: training epoch", "crops", "peers", peer, "ours resnet", peer.capitalize())
        for peer in ("lightning", "ultralytics")
    ),
    *(
        Row(
            "validation",
            f"{title}: validation",
            "crops",
            "predicting",
            f"seed validates {name}",
            f"ours validates {name}",
        )
        for name, title in NETWORKS.items()
    ),
    *(
        Row(
            "prediction",
            f"{title}: {what}",
            "crops",
            "predicting",
            f"seed predicts {name}",
            f"ours {how} {name}",
            goal=goal,
        )
        for name, title in NETWORKS.items()
        for what, how, goal in (
            ("prediction", "predicts", 6),
            ("prediction, mean of 8 views", "predicts averaged", None),
        )
    ),
    Row("occlusion", "ResNet18: occlusion maps", "crops", "occlusion", against="Captum's default", goal=6),
    Row("occlusion", "the same in float32", "crops", "occlusion", ours="ours float32", against="Captum's default"),
    Row("tuning", "tuning", "trials", "tuning", limit="alone", start="start"),
    Row("overlap", "crops that share pixels", "crops", "overlap", against="all pairs"),
    *(
        Row(
            "compile",
            f"{title}: epoch with torch.compile",
            "crops",
            "training",
            f"ours {name}",
            f"compiled {name}",
            "without",
        )
        for name, title in NETWORKS.items()
    ),
    Row("pipeline", "zips to submissions, tuned", "crops", "pipeline", goal=8),
]


def summarise(rows: Sequence[Row], figures: dict[str, dict[str, list]], ceiling: float) -> list[dict[str, Any]]:
    """Return of each row: units a second both ways, their ratio, that of the CPU time, and the share of the limit.

    All are medians of the repeats. figures: of each question, of each way, what `measure` returned each time;
    ceiling: FLOP/s, the limit of a way that says how much it computes
    """
    lines = []
    for row in rows:
        seed, ours, *others = (figures[row.question][f"{module}: {way}"] for module, way in row.ways())
        theirs, own = (median(run["units"] / run["seconds"] for run in runs) for runs in (seed, ours))
        cpu_theirs, cpu_own = (median(run["units"] / run["cpu_seconds"] for run in runs) for runs in (seed, ours))
        share = own * ours[0]["flop"] / ceiling or None
        if row.limit:
            start = median(run["seconds"] for run in others[1]) if row.start else 0
            without_start = median(run["units"] / (run["seconds"] - start) for run in ours)
            share = without_start / median(run["units"] / run["seconds"] for run in others[0])
        lines.append(
            {
                "title": row.title,
                "unit": row.unit,
                "against": row.against,
                "theirs": theirs,
                "ours": own,
                "ratio": own / theirs,
                "goal": row.goal,
                "cpu_ratio": cpu_own / cpu_theirs,
                "limit": LIMITS.get(row.question, FLOP_LIMIT if ours[0]["flop"] else None),
                "share_of_limit": share,
                "memory_theirs": max(run["memory"] or 0 for run in seed),
                "memory_ours": max(run["memory"] or 0 for run in ours),
            }
            | ours[0]["notes"]
        )
    return lines


def print_table(results: dict[str, Any]) -> None:
    """Print all as Markdown."""
    machine = results["machine"]
    print(
        f"\n{machine['processor']}, {machine['threads']} threads, {machine['device']}; torch {machine['torch']}; "
        f"{machine['crops']['train']:,} training and {machine['crops']['test']:,} test crops of "
        f"{machine['crops']['of']}; medians of {machine['repeats']}, {' and '.join(ONCE)} once\n"
    )
    print(
        "ceiling: " + ", ".join(f"{name} {rate / 1e9:,.0f} {_unit(name)}" for name, rate in results["ceiling"].items())
    )
    print(
        "\n| | against | theirs | ours | ratio | goal | ratio, CPU time | share of the limit | memory, theirs | ours |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for line in results["rows"]:
        limit = f"{line['share_of_limit']:.0%} of {line['limit']}" if line["share_of_limit"] else ""
        rates = (f"{_short(line[whose])} {line['unit']}/s" for whose in ("theirs", "ours"))
        memory = (f"{line[whose] / 2**30:.1f} GB" for whose in ("memory_theirs", "memory_ours"))
        goal = f"{line['goal']}x" if line["goal"] else ""
        cells = line["title"], line["against"], *rates, f"**{line['ratio']:.1f}x**", goal, f"{line['cpu_ratio']:.1f}x"
        print("| " + " | ".join([*cells, limit, *memory]) + " |")
    if results["growth"]:
        sizes = [run["crops"] for run in next(iter(results["growth"].values()))]
        print("\n| milliseconds a crop, memory at | " + " | ".join(f"{size:,} crops" for size in sizes) + " |")
        print("|---" + "|--:" * len(sizes) + "|")
        for name, runs in results["growth"].items():
            cells = (f"{1000 * run['seconds'] / run['units']:.2f}, {run['memory'] / 2**30:.2f} GB" for run in runs)
            print(f"| {name} | " + " | ".join(cells) + " |")


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
    upper.set(title="time a crop, ms", xscale="log", ylim=(0, None))
    lower.set(title="memory above the interpreter's, GB", xlabel="crops", ylim=(0, None))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _draw_ratios(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    places = range(len(rows))
    axes.barh(places, [row["ratio"] for row in rows], color=COLOURS["ours"])
    for place, row in zip(places, rows, strict=True):
        axes.text(row["ratio"], place, f" {row['ratio']:.1f}x", va="center")
        if row["goal"]:
            axes.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color=COLOURS["goal"], linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    labels = [row["title"] + ("" if row["against"] == SEED else f"\n(against {row['against']})") for row in rows]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set(xscale="log", title=f"times as fast as {SEED} (orange: the goal)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
