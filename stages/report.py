"""Put all that the pipeline found on one page, and on a model card of each network."""

from pathlib import Path

import numpy as np

from nuclei.errors import run
from nuclei.files import read_csv, write_text
from nuclei.params import load_params
from nuclei.report.page import build_card, build_page
from nuclei.report.results import describe_checkpoint, read_results
from nuclei.task import TITLES


def main() -> None:
    params = load_params(Path("params.yaml"))
    results = read_results(Path("reports"))
    index, crops = Path("data/crops/train.csv"), {}
    if index.exists():
        array = np.asarray(np.load("data/crops/train.npy", mmap_mode="r"))  # slicing np.memmap itself is slow
        crops = dict(zip(read_csv(index)["Filename"], array, strict=True))
    page = build_page(results, crops, params, Path("params.yaml").read_text())
    write_text(Path("reports/index.html"), page)
    for model in TITLES:
        path = Path(f"data/models/{model}.safetensors")
        checkpoint = describe_checkpoint(path) if path.exists() else None
        write_text(Path(f"reports/model_card_{model}.md"), build_card(results, model, checkpoint, params))
    print(f"reports/index.html: {len(page) / 1e6:.1f} MB; open it in any browser")


if __name__ == "__main__":
    run(main)
