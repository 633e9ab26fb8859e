"""Draw all curves and matrices from the tables that the other stages wrote."""

from pathlib import Path

from nuclei.errors import run
from nuclei.figures import save_figure
from nuclei.files import atomic_directory, read_csv
from nuclei.report import curves as draw
from nuclei.report.results import read_table
from nuclei.task import CLASSES, NETWORKS

EVALUATE, ROBUSTNESS = Path("reports/evaluate"), Path("reports/robustness")


def main() -> None:
    predictions = {name: read_csv(EVALUATE / f"predictions_{name}.csv") for name in NETWORKS}
    labels = next(iter(predictions.values()))["Label"].to_numpy()
    predicted = {name: table["Predicted"].to_numpy() for name, table in predictions.items()}
    curves = {name: read_table(Path(f"reports/train/{name}/curves.csv")) for name in NETWORKS}
    trials = {name: read_csv(Path(f"reports/tune/{name}/trials.csv")) for name in NETWORKS}
    reliability = {name: read_csv(EVALUATE / f"reliability_{name}.csv") for name in NETWORKS}
    selective = {name: read_csv(EVALUATE / f"selective_{name}.csv") for name in NETWORKS}
    robustness = {name: read_csv(ROBUSTNESS / f"scores_{name}.csv") for name in NETWORKS}
    with atomic_directory(Path("reports/figures"), replace=True) as folder:
        save_figure(draw.plot_confusion(labels, predicted, CLASSES), folder / "confusion.png")
        save_figure(draw.plot_curves(curves), folder / "curves.png")
        save_figure(draw.plot_search(trials), folder / "trials.png")
        save_figure(draw.plot_reliability(reliability), folder / "reliability.png")
        save_figure(draw.plot_selective(selective), folder / "selective.png")
        save_figure(draw.plot_robustness(robustness), folder / "robustness.png")
        save_figure(
            draw.plot_deletion_insertion(read_csv(Path("reports/explain/curves.csv"))), folder / "faithfulness.png"
        )


if __name__ == "__main__":
    run(main)
