"""Draw the built-in sample: synthetic tissue in the competition's layout. Nothing where other crops are asked for."""

from pathlib import Path

from nuclei.data.synthetic.sample import write_sample
from nuclei.errors import run
from nuclei.files import atomic_directory
from nuclei.params import SAMPLE, load_params


def main() -> None:
    params = load_params(Path("params.yaml"))
    if params.on_sample:
        write_sample(Path(SAMPLE), params.sample)
    else:
        with atomic_directory(Path(SAMPLE), replace=True):
            print(f"data.raw is {params.data.raw}: no sample is drawn")


if __name__ == "__main__":
    run(main)
