"""The whole way from four files to two submissions, hyper-parameters tuned: equal trials, epochs and training crops."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks import seed, tuning
from benchmarks.measure import Job, Way
from benchmarks.setting import PROJECT, Setting, extract
from nuclei.device import choose_device

EPOCHS = 3  # of either network
CHANGES = {  # of params.yaml: only what makes both ways do the same
    "epochs": EPOCHS,
    "tune": {"trials": tuning.TRIALS, "epochs": [1]},
    "train_cnn": {"final_epochs": 0, "patience": EPOCHS},
    "train_resnet": {"final_epochs": 0, "patience": EPOCHS, "weights": "none"},
}


def seeds(setting: Setting) -> Job:
    """One script: extract, tune, train and validate, predict; no search for overlaps, no checks."""
    choose_device(setting.device, setting.threads)
    index, test = setting.index("train"), setting.index("test")
    fitting, validation = index.iloc[: len(index) * 3 // 5], index.iloc[len(index) * 3 // 5 : len(index) * 4 // 5]

    def run() -> int:
        png = setting.folder / "extracted"
        extract(setting.raw, png)
        tuning.tune_seed(png / "train", fitting, validation, setting.device)
        for name, build in seed.NETWORKS.items():
            network = build().to(setting.device)
            optimizer = seed.adam(network)
            for _ in range(EPOCHS):
                seed.train_epoch(network, optimizer, seed.loader(png / "train", fitting, shuffle=True), setting.device)
                seed.validate(network, seed.loader(png / "train", validation), setting.device)
            labels = seed.predict(network, png / "test", test, setting.device)
            test.assign(Label=labels).to_csv(setting.folder / f"submission_{name}.csv", index=False)
        shutil.rmtree(png)
        return len(index) + len(test)

    return Job(run)


def ours(setting: Setting) -> Job:
    """`dvc repro submit` in a fresh copy of the project: a process a stage, everything hashed and cached."""
    copy = setting.folder / "project"
    shutil.rmtree(copy, ignore_errors=True)
    for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=PROJECT).split("\0"):
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
    (copy / "dvc.lock").unlink()
    _git("init", "-q", cwd=copy)
    params = yaml.safe_load((copy / "params.yaml").read_text())
    params |= {"threads": setting.threads, "device": setting.device, "epochs": EPOCHS}
    params["data"]["raw"] = str(setting.raw)
    for section, values in CHANGES.items():
        params[section] = params[section] | values if isinstance(values, dict) else values
    (copy / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False).replace(": null\n", ":\n"))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def run() -> int:
        done = subprocess.run(["dvc", "repro", "submit"], cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return len(setting.index("train")) + len(setting.index("test"))

    return Job(run)


def _git(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


WAYS: dict[str, Way] = {"seed": seeds, "ours": ours}
