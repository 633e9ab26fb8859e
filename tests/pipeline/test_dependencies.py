"""Read from the code: what may import what, and what a stage imports and which parameters it uses, against dvc.yaml."""

import ast
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from pydantic import BaseModel

from nuclei import params as schema
from nuclei.task import NETWORKS
from tools.clone import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# A file or room of nuclei/ imports only itself and what stands left of it. `__init__`, the public door, stands on top.
BASE = ["errors", "task", "files", "npz", "figures", "checked_yaml", "params", "progress"]
MACHINE = ["machine", "tensors", "crops", "device", "cluster_checks", "cluster"]
ROOMS = ["data", "splitting", "models", "training", "evaluation", "explanation", "report", "inference"]
ORDER = [*BASE, *MACHINE, *ROOMS, "doctor", "cli"]

# No dep of any stage. Messages and progress bars are no result; nor is what refuses a cluster that does not answer, nor
# the schema of the parameters and what reads them: they decide what is accepted, never what a value is, because no
# field has a default, a section takes no unknown key and converts nothing, and dvc.yaml declares every parameter that a
# stage reads. Each of these has its test below.
NEVER = {
    *("nuclei/errors.py", "nuclei/progress.py", "nuclei/cluster_checks.py"),
    *("nuclei/params.py", "nuclei/checked_yaml.py"),
}
# What decides whether a stage goes on, never what it writes: a change of it reruns the stage that uses it.
ONLY_CHECKED = {"weights": {"explain.methods"}}


def modules() -> list[Path]:
    return sorted((ROOT / "nuclei").rglob("*.py"))


def script(stage: dict) -> Path:
    return ROOT / (stage["cmd"].split()[2].replace(".", "/") + ".py")


def imports(path: Path) -> set[str]:
    """Return the files of the package that `path` itself imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    files = {name.replace(".", "/") + ".py" for name in names if name.startswith("nuclei.")}
    return {file for file in files if (ROOT / file).exists()}


def imported(path: Path, without: Collection[str] = ()) -> set[str]:
    """Return the files of the package that `path` imports, directly or through others, but not through `without`."""
    closure: set[str] = set()
    waiting = [path]
    while waiting:
        new = imports(waiting.pop()) - closure - {*without}
        closure |= new
        waiting += [ROOT / name for name in new]
    return closure


def needed(stage: dict) -> set[str]:
    """Return all files whose change can change what the stage writes: its code, and templates that its code fills."""
    path = script(stage)
    files = imported(path, NEVER) | {str(path.relative_to(ROOT))}
    if "nuclei/models/networks.py" in files:  # which imports them by name
        files |= {architecture_file(name) for name in NETWORKS}
    if "nuclei/report/page.py" in files:
        files |= {str(file.relative_to(ROOT)) for file in (ROOT / "nuclei/report/templates").iterdir()}
    return files


def architecture_file(network: str) -> str:
    return NETWORKS[network].architecture.rpartition(".")[0].replace(".", "/") + ".py"


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_the_code_that_a_stage_imports_is_among_its_deps_and_nothing_else_is(name):
    """A dep may be a folder: a room of which the stage needs most."""
    deps = {dep for dep in STAGES[name]["deps"] if dep.startswith(("nuclei", "stages"))}
    files = needed(STAGES[name])
    assert not {file for file in files if not any(covers(dep, file) for dep in deps)}, "no dep: a change is missed"
    assert not {dep for dep in deps if not any(covers(dep, file) for file in files)}, "reruns the stage for nothing"


def test_messages_progress_and_the_schema_of_the_parameters_rerun_nothing():
    deps = {dep for stage in STAGES.values() for dep in stage["deps"]}
    assert not {(dep, file) for dep in deps for file in NEVER if covers(dep, file)}


def sections() -> list[type[BaseModel]]:
    return [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, schema.Section)]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_no_parameter_has_a_default_and_no_section_changes_or_drops_what_params_yaml_says(section):
    """Else a change of nuclei/params.py, which is no dep, would change results that `dvc repro` calls up to date."""
    assert not [name for name, field in section.model_fields.items() if not field.is_required()]
    assert section.model_config["extra"] == "forbid"
    assert section.model_config["strict"] is True


def test_the_parameters_that_a_program_reads_are_those_of_params_yaml():
    """The schema's validators judge values and leave them as they are."""
    path = ROOT / "params.yaml"
    assert schema.load_params(path).model_dump(mode="json") == yaml.safe_load(path.read_text())


SECTION = r"getattr\((?:\w+\.)?params, NETWORKS\[.*?\]\.training\)"  # the section of params.yaml of a network


def parameters_read(tree: ast.AST, networks: list[str]) -> set[str]:
    """Return the parameters that code reads: attributes of `params`, or of the section of a network among `networks`.

    `x = params.x`: all of x.
    """
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    chains = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.expr) and id(node) not in inner]
    read = set()
    for chain in chains:
        if match := re.fullmatch(r"(?:\w+\.)*params\.([\w.]+)", chain):
            read.add(PROPERTIES.get(match[1], match[1]))
        elif match := re.fullmatch(rf"{SECTION}([\w.]*)", chain):
            read |= {NETWORKS[network].training + match[1] for network in networks}
    return read


PROPERTIES = {"on_sample": "data.raw", "titles": "resnet.backbone"}


def test_what_the_parameters_derive_from_others_is_known_here():
    """Else a stage could read a parameter that the test below does not see."""
    functions = {name: value.fget for name, value in vars(schema.Params).items() if isinstance(value, property)}
    derived = {
        name: parameters_read(ast.parse(dedent(inspect.getsource(function)).replace("self.", "params.")), [])
        for name, function in functions.items()
    }
    assert derived == {name: {parameter} for name, parameter in PROPERTIES.items()}


def methods(network: str) -> dict[str, ast.FunctionDef]:
    """Return the methods of a network's architecture by name."""
    tree = ast.parse((ROOT / architecture_file(network)).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", [name for name in STAGES if name != "report"])  # it depends on params.yaml as a whole
def test_all_parameters_that_a_stage_reads_are_declared_and_no_others(name):
    """Read by its script, by what that imports, and by those methods of the networks that any of these calls."""
    networks = STAGES[name]["cmd"].split()[3:] or list(NETWORKS)
    paths = [script(STAGES[name]), *(ROOT / module for module in imported(script(STAGES[name])))]
    trees = [ast.parse(path.read_text()) for path in paths]
    read = set().union(*(parameters_read(tree, networks) for tree in trees))
    calls = {
        node.func.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    for network in networks:
        for method in calls & methods(network).keys():
            read |= parameters_read(methods(network)[method], networks)
    read -= ONLY_CHECKED.get(name, set())
    declared = set(STAGES[name].get("params", []))
    assert not {key for key in read if not any(key == d or key.startswith(f"{d}.") for d in declared)}
    assert not {d for d in declared if not any(key == d or key.startswith(f"{d}.") for key in read)}


def test_the_library_imports_nothing_of_the_stages():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] in ("stages", "dvc") for name in names), path


def test_a_room_imports_only_itself_and_what_stands_left_of_it():
    def room(path: str | Path) -> int:
        return ORDER.index(Path(path).parts[1].removesuffix(".py"))

    for path in (path.relative_to(ROOT) for path in modules()):
        if path.stem == "__init__":
            continue
        wrong = {name for name in imports(ROOT / path) if room(name) > room(path)}
        assert not wrong, f"{path} imports {', '.join(sorted(wrong))}"


def test_a_room_is_entered_by_its_files_alone():
    """A room's __init__.py holds a docstring: what it imported would be a dep of every stage that enters the room."""
    for path in modules():
        if path.stem == "__init__" and path.parent != ROOT / "nuclei":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and isinstance(body[0].value.value, str), path


def test_heavy_libraries_stay_out_of_light_stages():
    """Importing torch costs seconds: the stages that only move data must not."""
    for name in ("sample", "unzip", "overlap", "split", "review", "report"):
        for path in [script(STAGES[name]), *(ROOT / module for module in imported(script(STAGES[name])))]:
            assert "import torch" not in path.read_text(), path
