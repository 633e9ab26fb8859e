"""Check and decode the competition's four files."""

from pathlib import Path

from nuclei.data.unpack import unpack
from nuclei.errors import run
from nuclei.files import write_json
from nuclei.params import load_params


def main() -> None:
    params = load_params(Path("params.yaml"))

    data = params.data
    report = unpack(Path(data.raw), Path("data/crops"), data.channels, params.classes, data.mpp)
    write_json(Path("reports/unzip/data.json"), report)
    for note in report["notes"]:
        print(f"WARNING: {note}")
    print(f"{report['train']['crops']:,} labelled crops, {report['test']['crops']:,} to predict")


if __name__ == "__main__":
    run(main)
