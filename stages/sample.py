"""Draw the built-in sample: synthetic tissue in the competition's layout."""

from pathlib import Path

from nuclei.data.synthetic.sample import write_sample
from nuclei.errors import run
from nuclei.params import load_params


def main() -> None:
    params = load_params(Path("params.yaml"))
    write_sample(Path("data/sample"), params.sample)


if __name__ == "__main__":
    run(main)
