"""No code comes from data: nothing in the code could run it, and malicious pickles in every place run nothing."""

import ast
import importlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import stages.weights
from nuclei.data.pretrained import download_imagenet
from nuclei.errors import InputError
from tools.clone import ROOT, Clone, change_params

SOURCES = [
    path for folder in ("nuclei", "stages", "benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))
]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "runpy", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("os.system", "os.popen", "importlib.import_module", "torch.jit.load", "torch.hub.load", "pd.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.UnsafeLoader", "yaml.FullLoader"),
    *("yaml.Loader", "yaml.CLoader", "torch.package", "torch.classes"),
}


def ways_to_run_code(source: str) -> list[str]:
    """List what in `source` could run code that data hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(node.id)
        elif isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            name = ast.unparse(node.func)
            safe = given.get("weights_only") == "True" and None not in given
            if (name.endswith("torch.load") or name.endswith("get_state_dict")) and not safe:
                found.append(f"{name} without weights_only=True")
            if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_could_run_code_from_data(path):
    assert ways_to_run_code(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "load = exec",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, **options)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class Loader(yaml.FullLoader): pass",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True)",
    ],
)
def test_a_way_to_run_code_would_be_found(line):
    assert ways_to_run_code(line)


class CreatesFile:
    """A pickle of this creates the file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


# Files that a stage reads with something that could be told to load pickles.
BINARY = {
    "data/crops": ["data/crops/train.npy", "data/crops/test.npy"],
    "data/overlaps.npz": ["data/overlaps.npz"],
    "data/weights/resnet18.safetensors": ["data/weights/resnet18.safetensors"],
    "data/models/cnn.safetensors": ["data/models/cnn.safetensors"],
    "data/models/resnet.safetensors": ["data/models/resnet.safetensors"],
    "data/models/cnn_final.safetensors": ["data/models/cnn_final.safetensors"],
    "data/models/resnet_final.safetensors": ["data/models/resnet_final.safetensors"],
    "data/models/folds": ["data/models/folds/cnn_0.safetensors"],
}
UNREAD = {("submit", "data/crops/train.npy")} | {
    (name, "data/crops/test.npy") for name in STAGES if name not in ("overlap", "submit")
}
PLACES = [
    (name, path)
    for name, stage in STAGES.items()
    for dep in stage["deps"]
    for path in BINARY.get(dep, [])
    if (name, path) not in UNREAD
]


def test_all_that_stages_read_is_planted_or_text():
    harmless = {".py", ".csv", ".json", ".yaml", ".png"}
    unknown = {dep for stage in STAGES.values() for dep in stage["deps"] if Path(dep).suffix not in harmless}
    ours = {dep for dep in unknown if dep.startswith("nuclei/")}  # rooms, and the templates of the report
    assert unknown - BINARY.keys() - ours - {"reports/explain"} == {
        "${data.raw}"
    }  # zips and tables: see test_hostile.py


def plant(path: Path, bomb: Path, how: str) -> None:
    content = CreatesFile(bomb)
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif how == "torch":
        torch.save({"conv1.weight": torch.zeros(1), "bomb": content}, path)
    elif how == "torch of before 2020":
        torch.save({"bomb": content}, path, _use_new_zipfile_serialization=False)
    elif path.suffix == ".npz":
        np.savez(path, first=np.array([content]), second=np.array([content]))
    else:
        with path.open("wb") as file:
            np.save(file, np.array([content]))


@pytest.fixture(scope="module")
def outputs(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the stages wrote."""
    folder = tmp_path_factory.mktemp("outputs")
    for name in ("data", "reports"):
        shutil.copytree(finished.path / name, folder / name)
    (folder / "data/models/folds").mkdir(exist_ok=True)
    shutil.copy(folder / "data/models/cnn.safetensors", folder / "data/models/folds/cnn_0.safetensors")
    shutil.copy(finished.path / "params.yaml", folder)
    change_params(folder / "params.yaml", {"crossval.models": ["cnn"]})
    return folder


@pytest.mark.parametrize(("stage", "path"), PLACES)
def test_a_pickle_in_place_of_an_input_runs_nothing(stage, path, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(outputs)
    module, *arguments = STAGES[stage]["cmd"].removeprefix("python -m ").split()
    monkeypatch.setattr("sys.argv", [module, *arguments])
    change_params(outputs / "params.yaml", {"predict.average": "folds" if "folds" in path else "final"})
    main = importlib.import_module(module).main
    place, bomb, safe = Path(path), tmp_path / "bomb", tmp_path / "safe"
    place.rename(safe)
    try:
        for how in ("pickle", "numpy" if place.suffix.startswith(".np") else "torch"):
            plant(place, bomb, how)
            with pytest.raises(Exception):  # noqa: B017 (an InputError from checkpoints; the others are our own outputs)
                main()
            assert not bomb.exists()
    finally:
        shutil.move(safe, place)


@pytest.mark.parametrize("how", ["pickle", "torch", "torch of before 2020"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
def test_a_pickle_in_place_of_weights_runs_nothing(name, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"train_resnet.weights": name})
    plant(tmp_path / name, tmp_path / "bomb", how)
    with pytest.raises(InputError, match=rf"^{name}: neither safetensors nor plain tensors"):
        stages.weights.main()
    assert not (tmp_path / "bomb").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch", "torch of before 2020"])
def test_a_pickle_in_place_of_what_was_downloaded_runs_nothing(how, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    plant(cache / "resnet18-f37072fd.pth", tmp_path / "bomb", how)
    with pytest.raises(InputError, match=f"^imagenet: what was downloaded to {cache} is damaged: delete it"):
        download_imagenet()
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("how", ["pickle", "torch", "torch of before 2020", "numpy"])
def test_the_pickles_would_go_off(how, tmp_path):
    path, bomb = tmp_path / "file", tmp_path / "bomb"
    plant(path, bomb, how)
    load = {"pickle": lambda: pickle.loads(path.read_bytes()), "numpy": lambda: np.load(path, allow_pickle=True)}
    load.get(how, lambda: torch.load(path, weights_only=False))()
    assert bomb.exists()
