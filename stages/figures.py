"""Draw all curves and matrices from the tables that the other stages wrote."""

from pathlib import Path

from nuclei.errors import run
from nuclei.figures import save_figure
from nuclei.files import atomic_directory, read_csv
from nuclei.params import load_params
from nuclei.report import curves as draw
from nuclei.report.results import read_table
from nuclei.task import read_task

EVALUATE, ROBUSTNESS = Path("reports/evaluate"), Path("reports/robustness")


def main() -> None:
    params = load_params(Path("params.yaml"))
    titles, classes = params.titles, read_task(Path("data/crops")).classes
    predictions = {title: read_csv(EVALUATE / f"predictions_{name}.csv") for name, title in titles.items()}
    labels = next(iter(predictions.values()))["Label"].to_numpy()
    predicted = {title: table["Predicted"].to_numpy() for title, table in predictions.items()}
    curves = {title: read_table(Path(f"reports/train/{name}/curves.csv")) for name, title in titles.items()}
    trials = {title: read_csv(Path(f"reports/tune/{name}/trials.csv")) for name, title in titles.items()}
    reliability = {title: read_csv(EVALUATE / f"reliability_{name}.csv") for name, title in titles.items()}
    selective = {title: read_csv(EVALUATE / f"selective_{name}.csv") for name, title in titles.items()}
    robustness = {title: read_csv(ROBUSTNESS / f"scores_{name}.csv") for name, title in titles.items()}
    with atomic_directory(Path("reports/figures"), replace=True) as folder:
        save_figure(draw.plot_confusion(labels, predicted, classes), folder / "confusion.png")
        save_figure(draw.plot_curves(curves), folder / "curves.png")
        save_figure(draw.plot_search(trials), folder / "trials.png")
        save_figure(draw.plot_reliability(reliability), folder / "reliability.png")
        save_figure(draw.plot_selective(selective), folder / "selective.png")
        save_figure(draw.plot_robustness(robustness), folder / "robustness.png")
        explained = draw.plot_deletion_insertion(read_csv(Path("reports/explain/curves.csv")), titles)
        save_figure(explained, folder / "faithfulness.png")


if __name__ == "__main__":
    run(main)
