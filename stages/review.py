"""List suspected label errors among all crops that a network predicted without having seen their fold."""

from pathlib import Path

from nuclei.crops import open_crops
from nuclei.data.to_correct import write_to_correct
from nuclei.errors import run
from nuclei.evaluation.review import find_label_issues
from nuclei.figures import plot_gallery, save_figure
from nuclei.files import read_csv, write_csv
from nuclei.params import load_params
from nuclei.task import NETWORKS, read_task


def main() -> None:
    params = load_params(Path("params.yaml"))
    predictions = {name: read_csv(Path(f"reports/evaluate/predictions_{name}.csv")) for name in NETWORKS}
    rows = {filename: row for row, filename in enumerate(read_csv(Path("data/crops/train.csv"))["Filename"])}

    issues = find_label_issues(predictions)
    shown = issues.head(params.review.crops)
    crops = open_crops(Path("data/crops"), "train")[[rows[filename] for filename in shown["Filename"]]]
    title = f"{len(issues):,} of {len(next(iter(predictions.values()))):,} labels are suspected errors"
    print(title)
    write_csv(Path("reports/review/label_issues.csv"), issues)
    classes = read_task(Path("data/crops")).classes
    write_to_correct(Path("reports/review"), issues, classes, Path(params.data.raw) / "positions.csv")
    captions = [f"{row.Filename}\n{classes[row.Label]}?\n{classes[row.Suggested]}" for row in shown.itertuples()]
    save_figure(plot_gallery(crops, captions, title), Path("reports/review/label_issues.png"))


if __name__ == "__main__":
    run(main)
