"""Make one model's metrics the project's headline."""

from pathlib import Path

from nuclei.errors import run
from nuclei.files import atomic_write
from nuclei.params import load_params


def main() -> None:
    params = load_params(Path("params.yaml"))
    with atomic_write(Path("reports/metrics.json")) as temporary:
        temporary.write_bytes(Path(f"reports/metrics_{params.model}.json").read_bytes())


if __name__ == "__main__":
    run(main)
