"""Put all results on one page, and on a model card of each network."""

from pathlib import Path

from nuclei.crops import open_crops
from nuclei.errors import run
from nuclei.files import read_csv, write_text
from nuclei.params import load_params
from nuclei.report.page import build_card, build_page
from nuclei.report.results import describe_checkpoint, read_results
from nuclei.task import NETWORKS, Task, read_task


def main() -> None:
    params = load_params(Path("params.yaml"))
    results, table = read_results(Path("reports")), Path("data/crops/train.csv")
    crops, task = {}, Task(tuple(params.classes or ()))
    if table.exists():
        task = read_task(table.parent)
        crops = dict(zip(read_csv(table)["Filename"], open_crops(table.parent, "train"), strict=True))
    page = build_page(results, crops, task, params, Path("params.yaml").read_text())
    write_text(Path("reports/index.html"), page)
    for name in NETWORKS:
        path = Path(f"data/models/{name}/final.safetensors")
        checkpoint = describe_checkpoint(path) if path.exists() else None
        write_text(Path(f"reports/model_card_{name}.md"), build_card(results, name, checkpoint, task, params))
    print(f"reports/index.html: {len(page) / 1e6:.1f} MB; open it in any browser")


if __name__ == "__main__":
    run(main)
