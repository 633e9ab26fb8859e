"""Score all networks on crops whose fold they never saw: how good, how certain, how calibrated, and which is better."""

from itertools import combinations
from pathlib import Path

from nuclei.crops import read_places
from nuclei.errors import run
from nuclei.evaluation.comparison import compare
from nuclei.evaluation.evaluate import evaluate, read_out_of_fold
from nuclei.evaluation.metrics import METRICS
from nuclei.evaluation.with_neighbours import evaluate_with_neighbours
from nuclei.files import read_csv, write_csv, write_json
from nuclei.params import load_params
from nuclei.task import NETWORKS, read_task


def main() -> None:
    params = load_params(Path("params.yaml"))
    split, out = read_csv(Path("data/split.csv")), Path("reports/evaluate")
    task = read_task(Path("data/crops"))
    classes = task.classes

    predictions, neighbours = {}, {}
    for name in NETWORKS:
        crops, logits = read_out_of_fold(Path(f"data/models/{name}"), split, params.predict.tta)
        evaluation = evaluate(crops, logits, classes, params.evaluate)
        print(f"{name}: " + ", ".join(f"{metric} {evaluation.scores[metric]:.4f}" for metric in METRICS))
        write_json(out / f"metrics_{name}.json", evaluation.scores)
        for table, rows in evaluation.tables().items():
            write_csv(out / f"{table}_{name}.csv", rows)
        predictions[name] = evaluation.predictions
        places, title = read_places(crops, task), params.titles[name]
        neighbours[name] = evaluate_with_neighbours(
            evaluation.predictions, places, classes, title, params.evaluate.bins
        )
        print(neighbours[name]["comparison"]["verdict"])
    write_json(out / "neighbours.json", neighbours)

    comparisons = {}
    for first, second in combinations(NETWORKS, 2):
        pair = {params.titles[name]: predictions[name]["Predicted"].to_numpy() for name in (first, second)}
        crops = predictions[first]
        comparison = compare(crops["Label"].to_numpy(), pair, crops["Group"].to_numpy(), classes)
        comparisons[f"{second}_against_{first}"] = comparison
        print(comparison["verdict"])
    write_json(out / "comparison.json", comparisons)


if __name__ == "__main__":
    run(main)
