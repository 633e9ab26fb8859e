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
from PIL import Image

import stages.weights
from nuclei.errors import InputError
from nuclei.models.pretrained import download_resnet18
from tools.clone import ROOT, Clone, change_params

SOURCES = [
    path for folder in ("nuclei", "stages", "benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))
]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "runpy", "code"}
NAMES = {"eval", "exec", "compile", "__import__", "import_module"}
CALLS = {
    *("os.system", "os.popen", "importlib.import_module", "torch.jit.load", "torch.hub.load", "pd.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.UnsafeLoader", "yaml.FullLoader"),
    *("yaml.Loader", "yaml.CLoader", "torch.package", "torch.classes"),
}

IMPORTS = {  # by names that this project's code, or who runs it, says, never data
    "nuclei/models/networks.py": ["import_module"],  # of nuclei/task.py
    "benchmarks/measure.py": ["import_module"],  # of the suite's table
    "tools/endurance.py": ["importlib.import_module"],  # of dvc.yaml
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
        elif isinstance(node, ast.Name) and node.id in NAMES:
            found.append(node.id)
        elif isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            name = ast.unparse(node.func)
            safe = given.get("weights_only") == "True" and None not in given
            if name.endswith(("torch.load", "get_state_dict", "load_state_dict_from_url")) and not safe:
                found.append(f"{name} without weights_only=True")
            if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_could_run_code_from_data(path):
    assert ways_to_run_code(path.read_text()) == IMPORTS.get(str(path.relative_to(ROOT)), [])


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "load = exec",
        "import_module(name)",
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
        "torch.hub.load_state_dict_from_url(url, check_hash=True)",
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


NETWORK = ["fold_0.safetensors", "final.safetensors", "out_of_fold.npz"]
# Files that a stage reads with something that could be told to load pickles, by the dep that they are in.
BINARY = {
    "data/crops": ["train.npy", "test.npy"],
    "data/overlaps.npz": [""],
    "data/weights/pretrained.safetensors": [""],
    "data/models/cnn": NETWORK,
    "data/models/cnn/out_of_fold.npz": [""],
    "data/models/cnn/final.safetensors": [""],
    "data/models/resnet": NETWORK,
    "data/models/resnet/out_of_fold.npz": [""],
    "data/models/resnet/final.safetensors": [""],
}
READ = {  # by those that read not all of a folder
    "overlap": {"train.npy", "test.npy"},
    "robustness": {"train.npy", "fold_0.safetensors"},
    "explain": {"train.npy", "fold_0.safetensors"},
    "submit": {"test.npy", "fold_0.safetensors", "final.safetensors"},
}
PLACES = [
    (name, str(Path(dep, file)))
    for name, stage in STAGES.items()
    for dep in stage["deps"]
    for file in BINARY.get(dep, [])
    if not file or file in READ.get(name, {"train.npy"})
]


def test_all_that_stages_read_is_planted_or_text(finished):
    """Zips and tables: see test_hostile.py; data/pretrained: see below."""
    harmless = {".py", ".csv", ".json", ".yaml", ".png"}
    unknown = {dep for stage in STAGES.values() for dep in stage["deps"] if Path(dep).suffix not in harmless}
    unknown -= {dep for dep in unknown if dep.startswith(("nuclei/", "reports/"))}  # code, and what follows
    assert unknown - BINARY.keys() == {"${data.raw}", "data/pretrained"}
    suffixes = {path.suffix for path in (finished.path / "reports").rglob("*") if path.is_file()}
    assert suffixes <= harmless | {".html", ".md", ""}  # .gitignore


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
    shutil.copy(finished.path / "params.yaml", folder)
    for path in (folder / "reports").rglob("*.png"):  # the report reads them first, and takes seconds
        Image.new("RGB", (1, 1)).save(path)
    return folder


@pytest.mark.parametrize(("stage", "path"), PLACES)
def test_a_pickle_in_place_of_an_input_runs_nothing(stage, path, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(outputs)
    module, *arguments = STAGES[stage]["cmd"].removeprefix("python -m ").split()
    monkeypatch.setattr("sys.argv", [module, *arguments])
    change_params(outputs / "params.yaml", {"predict.average": "folds" if "fold_" in path else "final"})
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
    (tmp_path / "data/pretrained").mkdir(parents=True)
    plant(tmp_path / "data/pretrained" / name, tmp_path / "bomb", how)
    with pytest.raises(InputError, match=rf"^data/pretrained/{name}: neither safetensors nor plain tensors"):
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
        download_resnet18()
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("how", ["pickle", "torch", "torch of before 2020", "numpy"])
def test_the_pickles_would_go_off(how, tmp_path):
    path, bomb = tmp_path / "file", tmp_path / "bomb"
    plant(path, bomb, how)
    load = {"pickle": lambda: pickle.loads(path.read_bytes()), "numpy": lambda: np.load(path, allow_pickle=True)}
    load.get(how, lambda: torch.load(path, weights_only=False))()
    assert bomb.exists()
