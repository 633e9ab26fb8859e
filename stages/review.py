"""Put up for review the labels that the networks surely contradict, on crops that they were not trained on."""

from pathlib import Path

import numpy as np

from nuclei.errors import run
from nuclei.evaluation.review import review_queue
from nuclei.figures import plot_gallery, save_figure
from nuclei.files import read_csv, write_csv
from nuclei.params import load_params
from nuclei.task import CLASSES


def main() -> None:
    params = load_params(Path("params.yaml"))
    predictions = dict(iter(read_csv(Path("data/crossval.csv")).groupby("Model", sort=False)))
    covered = "all crops"
    if not predictions:  # no cross-validation: only the held-out fold was never trained on
        predictions = {name: read_csv(Path(f"reports/predictions_{name}.csv")) for name in ("cnn", "resnet")}
        covered = "the held-out fold"
    queue = review_queue(predictions, params.review.confidence)
    share = f"{len(queue):,} of {len(next(iter(predictions.values()))):,} labels in {covered}"
    title = f"{share}: {' and '.join(predictions)} see another class, at least {params.review.confidence:.0%} sure"
    print(title)
    write_csv(Path("reports/review.csv"), queue)

    shown = queue.head(params.review.crops)
    places = read_csv(Path("data/crops/train.csv")).reset_index().set_index("Filename")["index"]
    crops = np.load("data/crops/train.npy", mmap_mode="r")[places[shown["Filename"]].to_numpy()]
    captions = [
        f"{row.Filename}\n{CLASSES[row.Label]}?\n{CLASSES[row.Predicted]}, {row.Confidence:.0%}"
        for row in shown.itertuples()
    ]
    save_figure(plot_gallery(crops, captions, title), Path("reports/review.png"))


if __name__ == "__main__":
    run(main)
