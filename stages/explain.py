"""Draw what the networks look at in held-out crops, and score how far that can be trusted."""

from pathlib import Path

from nuclei.crops import open_crops
from nuclei.device import Compute
from nuclei.errors import run
from nuclei.explanation.explain import select_and_explain
from nuclei.explanation.faithfulness import metrics
from nuclei.explanation.gallery import draw_galleries
from nuclei.figures import save_figure
from nuclei.files import atomic_directory, read_csv, write_csv, write_json
from nuclei.models.checkpoint import load_fold_models
from nuclei.params import load_params
from nuclei.task import NETWORKS, read_task


def main() -> None:
    params = load_params(Path("params.yaml"))
    crops, table = open_crops(Path("data/crops"), "train"), read_csv(Path("data/split.csv"))
    predictions = {name: read_csv(Path(f"reports/evaluate/predictions_{name}.csv")) for name in NETWORKS}
    models = {name: load_fold_models(Path(f"data/models/{name}")) for name in NETWORKS}
    compute = Compute(params.device, params.threads)

    task = read_task(Path("data/crops"))
    result = select_and_explain(
        crops, table, predictions, models, task, params.explain, params.train.precision, compute
    )
    print(result.overview())
    result.save(Path("data/explain"))
    with atomic_directory(Path("reports/explain"), replace=True) as folder:
        for name, figure in draw_galleries(result, task.classes, params.titles, params.explain.gallery_crops):
            save_figure(figure, folder / f"{name}.png", colours=256)  # heat maps are large
        write_csv(folder / "faithfulness.csv", result.means)
        write_csv(folder / "curves.csv", result.curves)
        for name in NETWORKS:
            write_json(folder / f"faithfulness_{name}.json", metrics(result.means, name))


if __name__ == "__main__":
    run(main)
