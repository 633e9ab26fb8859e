"""The pages that users read: commands that work, links that lead somewhere, names that exist.

Every command in a code block is shown to its own program. It is also run, in a finished project, unless a comment above
the block names the test that runs it (`run by:`) or says why nothing does (`not run:`).
"""

import ast
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.cli import parse_args as parse_dvc
from hydra.core.override_parser.overrides_parser import OverridesParser
from ray.autoscaler._private.util import prepare_config, validate_config
from test_dependencies import ORDER
from tissue import write_tile

from nuclei.cli import main as run_nuclei
from nuclei.cli import parse as parse_nuclei
from nuclei.params import Params, load_params
from tools import parameters
from tools.clone import ROOT, Clone, change_params

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
MANUAL = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")), *MANUAL]
COMMANDS, DIAGRAM, CONFIGURATION = ("", "bash"), "text", ("yaml", "dockerfile")
# Programs whose words nobody checks here: those of a system, and those that need a network or another machine.
UNCHECKED = set("cd cp exit export find git mkdir mv rm sed awk md5sum chmod . docker kubectl pip ray uv uvx".split())  # noqa: SIM905


@dataclass(frozen=True)
class Block:
    """A code block of a page, with the comment right above it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> Iterator[Block]:
    pattern = r"(?:^<!--((?:(?!-->).)*)-->\n)?^```(\w*)\n(.*?)^```$"
    text = page.read_text()
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        comment = " ".join((match[1] or "").split())
        yield Block(page, text[: match.start()].count("\n") + 1, match[2], match[3], comment)


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
# What several pages show is run once.
RUN = list(
    {block.text: block for block in BLOCKS if not block.comment and block.language in (*COMMANDS, "python")}.values()
)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block: without comments, what stands in a here-document, assignments."""
    text = re.sub(r"<<(\w+)\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\([^()]*\)", "X", text)  # what a shell puts in
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)


def without_uv(words: list[str]) -> list[str]:
    """Return what `uv run` runs, or the words as they are."""
    if Path(words[0]).name != "uv" or words[1:2] != ["run"]:
        return words
    rest = words[2:]
    while rest and rest[0] in ("--group", "--with"):
        rest = rest[2:]
    return rest


def check(words: list[str], params: Path) -> None:
    """Raise where a program would not take the words of its command."""
    program, *words = without_uv(words)
    if program == "nuclei":
        parse_nuclei(words)
    elif program == "dvc":
        check_dvc(words, params)
    elif program.rpartition("/")[2] in ("python", "python3"):
        if words[0] == "-m" and words[1] != "venv":
            check_module(*words[1:])
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in words if word.startswith("tests")), words
    elif program == "ruff":
        assert words[0] in ("check", "format")
    else:
        assert program.rpartition("/")[2] in UNCHECKED, f"{program}: a program that no test knows"


def check_dvc(words: list[str], params: Path) -> None:
    """DVC's own parser takes the words, stages exist, and the parameters that are set fit."""
    arguments = parse_dvc(words)
    names = set(getattr(arguments, "targets", None) or [])
    known = {"run": PIPELINE["stages"], "repro": PIPELINE["stages"], "diff": PIPELINE["metrics"]}
    assert names <= set(known.get(arguments.cmd, names)), names
    for override in OverridesParser.create().parse_overrides(getattr(arguments, "set_param", None) or []):
        change_params(params, {override.key_or_group: override.value()})
        load_params(params)


def check_module(name: str, *words: str) -> None:
    """The module exists, and its source knows the options."""
    spec = find_spec(name)
    assert spec and spec.origin, name
    folder = Path(spec.origin).parent
    source = "".join(path.read_text() for path in folder.rglob("*.py"))
    for option in (word for word in words if word.startswith("--") and word != "--help"):
        assert f'"{option}"' in source or option.removeprefix("--") in source, f"{name}: no option {option}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in COMMANDS], ids=str)
def test_every_program_takes_the_words_of_its_commands(block, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for words in commands(block.text):
        check(words, tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "line",
    [
        "nuclei predict model.safetensors tile.png --nucleus nuclei.csv",
        "dvc exp run -S train_cnn.epoch=60",
        "dvc exp run -S lr=fast",
        "dvc exp run headline",
        "dvc metrics diff a b --targets reports/metrics_cnn.json",
        "dvc exp run --no-such-option",
        "python -m tools.no_such_program",
        "python -m tools.certificate --no-such-option",
        "pytest tests/no_such_folder",
        "no-such-program",
    ],
)
def test_a_command_that_does_not_work_is_noticed(line, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises((Exception, SystemExit)):
        for words in commands(line):
            check(words, tmp_path / "params.yaml")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("", "bash", "python")], ids=str)
def test_a_block_that_is_not_run_here_names_a_test_or_says_why(block):
    kind, _, text = block.comment.partition(": ")
    assert kind in ("", "not run", "run by") and (not kind or text)
    if kind == "run by":
        for name in text.split(", "):
            file, function = name.split("::")
            tree = ast.parse((ROOT / file).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_languages_of_blocks_are_known():
    assert {block.language for block in BLOCKS} <= {*COMMANDS, "python", DIAGRAM, *CONFIGURATION}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory) -> Clone:
    """A finished project with a tile of the user's in it."""
    clone = Clone(tmp_path_factory.mktemp("docs") / "project")
    shutil.copytree(finished.path, clone.path, symlinks=True)
    write_tile(clone.path / "tile.png")
    pd.DataFrame({"x": [100.0, 300.0], "y": [100.0, 200.0]}).to_csv(clone.path / "nuclei.csv", index=False)
    return clone


def run_block(text: str, project: Clone) -> None:
    """Run the commands of a block: those of `nuclei` alone in this process, where PyTorch is imported."""
    lines = list(commands(text))
    if any(program != "nuclei" for program, *_ in lines):
        project.run("bash", "-euo", "pipefail", "-c", text)
        return
    with chdir(project.path), pytest.MonkeyPatch.context() as patch:
        for words in lines:
            expanded = [name for word in words for name in sorted(glob(word)) or [word]]  # noqa: PTH207 (any word)
            patch.setattr("sys.argv", expanded)
            run_nuclei()


@pytest.mark.parametrize("block", RUN, ids=str)
def test_the_commands_of_a_page_run(block, project, unchanged_torch, monkeypatch):
    """In the order of the pages: a later block may use what an earlier one wrote."""
    if block.language == "python":
        monkeypatch.chdir(project.path)
        exec(block.text, {"__name__": "__main__"})
    else:
        run_block(block.text, project)


def targets(page: Path) -> list[str]:
    """Return what a page links to, and the pictures that it shows, but for the web."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not target.startswith(("http", "mailto"))]


def from_root(page: Path, target: str) -> str:
    return str((page.parent / target.partition("#")[0]).resolve().relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in targets(page):
        path, _, heading = target.partition("#")
        file = ROOT / from_root(page, target) if path else page
        assert file.exists() or from_root(page, target).startswith("reports/"), target
        if heading:
            slugs = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", slug.lower()).replace(" ", "-") for slug in slugs}, target


def test_pictures_of_results_are_those_that_the_pipeline_writes(finished):
    shown = {from_root(page, target) for page in PAGES for target in targets(page)}
    pictures = {path for path in shown if path.startswith("reports/")}
    assert pictures
    for path in pictures:
        assert (finished.path / path).exists(), path


@pytest.mark.parametrize("page", PAGES[:1] + MANUAL, ids=lambda page: page.name)
def test_names_of_files_and_parameters_exist(page, finished):
    """Names in code style; CHANGELOG.md, where earlier ones stand, is left out."""
    sections = Params.model_fields.keys()
    known = set(re.findall(r"^\| `([\w.]+)`", parameters.page(), re.MULTILINE))
    earlier = set(re.findall(r"^- `([\w.]+)`", parameters.page(), re.MULTILINE))
    for name in re.findall(r"`([^`\s*]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        name = name.removesuffix(":")
        if re.match(r"(nuclei|stages|tests|tools|benchmarks)/.*[/.]", name) and not re.search("NAME|STAGE", name):
            assert (ROOT / name).exists(), name
        elif name.startswith(("reports/", "data/")) and not re.search("NAME|STAGE|kaggle|.resume", name):
            assert (finished.path / name).exists(), name
        elif name.split(".")[0] in sections and re.fullmatch(r"\w+\.(?!csv|md|py|zip)\w+", name):
            assert name in known | earlier, name


def test_the_readme_is_a_door():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readmes_table_has_every_page():
    rows = re.findall(r"^\| \[\w+\]\(docs/([\w.]+)\) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [page.name for page in MANUAL]


def test_the_page_of_parameters_is_up_to_date():
    assert parameters.PAGE.read_text() == parameters.page(), "run python -m tools.parameters"


def test_every_parameter_has_a_meaning():
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (.*) \| .*\|$", parameters.page(), re.MULTILINE)
    assert len(rows) > 50 and not [name for name, meaning in rows if not meaning.strip()]


def test_the_page_of_the_pipeline_has_every_stage():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs/pipeline.md").read_text(), re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"\w+", row)] == list(PIPELINE["stages"])


def test_the_page_of_the_architecture_has_the_order_of_imports():
    (diagram,) = (block for block in BLOCKS if block.language == DIAGRAM and block.text.startswith("errors"))
    assert diagram.page.name == "architecture.md" and diagram.text.split() == ORDER


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


CLUSTER = (ROOT / "docs" / "cluster.md").read_text()
KUBERAY, CLOUD = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", CLUSTER, re.DOTALL))
# Of ray.io/v1, as KubeRay 1.6 documents it; those that we use, and the required ones.
FIELDS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD, WORKERS = (
    {"rayStartParams", "template"},
    {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
)


def test_ray_accepts_the_cloud_cluster():
    validate_config(prepare_config(CLOUD))


def test_the_kubernetes_cluster_has_the_fields_that_kuberay_knows():
    assert (KUBERAY["apiVersion"], KUBERAY["kind"]) == ("ray.io/v1", "RayCluster")
    spec = KUBERAY["spec"]
    assert set(spec) == FIELDS and spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group, fields in zip(groups, [HEAD, WORKERS, WORKERS], strict=True):
        assert set(group) == fields
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert all(isinstance(value, str) for value in container["resources"]["limits"].values())


def test_versions_are_those_of_the_project():
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = dict(re.findall(r"'([\w-]+)(?:\[\w+\])?==([\d.]+)'", str(pinned)))
    assert KUBERAY["spec"]["rayVersion"] == versions["ray"]
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"(?:rayproject/ray:|ray\[default\]==)([\d.]+)", text)) == {versions["ray"]}
    for package in ("dvc-s3", "torch", "torchvision"):
        assert set(re.findall(rf"\b{package}==([\d.]+\d)", text)) == {versions[package]}
