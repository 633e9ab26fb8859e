"""From four files to two submissions, tuned and cross-validated: equal trials, networks, epochs and training crops."""

import shutil
import subprocess

import pandas as pd

from benchmarks import baseline
from benchmarks.measure import Implementation, Workload
from benchmarks.speed import tuning
from benchmarks.workspace import Workspace, extract
from nuclei.device import setup_device
from tools.clone import copy_project

EPOCHS, FOLDS, HELD_OUT = 3, 5, 2
CHANGES = {  # of params.yaml: only what makes both do the same
    "split": {"folds": FOLDS, "held_out": HELD_OUT},
    "tune": {"trials": tuning.TRIALS, "rungs": [1 / EPOCHS], "batch_size": [32]},
    "train_cnn": {"epochs": EPOCHS},
    "train_resnet": {"epochs": EPOCHS, "weights": "none"},
}


def run_baseline(workspace: Workspace) -> Workload:
    """One script: extract, tune, train and validate, predict; no search for overlaps, no checks."""
    setup_device(workspace.device, workspace.threads)
    index, test = workspace.index("train"), workspace.index("test")
    folds = [index.iloc[fold::FOLDS] for fold in range(FOLDS)]

    def run() -> int:
        png = workspace.folder / "extracted"
        extract(workspace.raw, png)
        tuning.tune_baseline(png / "train", pd.concat(folds[2:]), folds[1], workspace.device)
        for name, build in baseline.NETWORKS.items():
            for fold in (*range(HELD_OUT), None):  # the last one is trained on all
                network = build().to(workspace.device)
                optimizer = baseline.adam(network)
                rows = index if fold is None else pd.concat(folds[:fold] + folds[fold + 1 :])
                for _ in range(EPOCHS):
                    batches = baseline.loader(png / "train", rows, shuffle=True)
                    baseline.train_epoch(network, optimizer, batches, workspace.device)
                    if fold is not None:
                        baseline.validate(network, baseline.loader(png / "train", folds[fold]), workspace.device)
            labels = baseline.predict(network, png / "test", test, workspace.device)
            test.assign(Label=labels).to_csv(workspace.folder / f"submission_{name}.csv", index=False)
        shutil.rmtree(png)
        return len(index) + len(test)

    return Workload(run)


def run_project(workspace: Workspace) -> Workload:
    """`dvc repro submit` in a fresh copy of the project: a process a stage, everything hashed and cached."""
    folder = workspace.folder / "project"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier repeat
    clone = copy_project(folder)
    (folder / "dvc.lock").unlink()
    computed = {"threads": workspace.threads, "device": workspace.device, "data.raw": str(workspace.raw)}
    clone.set(CHANGES | computed)

    def run() -> int:
        done = subprocess.run(
            ["dvc", "repro", "submit"], cwd=clone.path, env=clone.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return len(workspace.index("train")) + len(workspace.index("test"))

    return Workload(run)


IMPLEMENTATIONS: dict[str, Implementation] = {"baseline": run_baseline, "project": run_project}
