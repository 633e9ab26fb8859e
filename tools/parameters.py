"""Write docs/parameters.md from params.yaml and nuclei/params.py: `python -m tools.parameters`.

Meanings are the comments at the ends of lines: of the field in nuclei/params.py, or else of the value in params.yaml,
or else of the field's type. Ranges are those that the program checks.
"""

import ast
import json
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nuclei.params import RENAMED, Params, Section
from tools.clone import ROOT

PAGE = ROOT / "docs" / "parameters.md"
HEAD = """# Parameters

<!-- Written by `python -m tools.parameters`: change nuclei/params.py or params.yaml, then run that. -->

All parameters are in [params.yaml](../params.yaml), and nothing else is. Change one for good in that file, or for one
experiment on the command line: `dvc exp run -S NAME=VALUE` ([pipeline.md](pipeline.md)). The whole file is checked
before any work; an unknown name is answered with the nearest one that exists.

"Default" is the value in params.yaml as it comes. "Read by" names the stages that a change reruns; what they write
reruns the stages after them. `report` shows all parameters, so it reruns after any change.
"""


class Row(NamedTuple):
    """A parameter.

    Attributes:
        name: Dotted, as after -S.
        default: Its value in params.yaml.
        values: What it may be, in words.
        meaning: One line.
        stages: Those of dvc.yaml that read it.
    """

    name: str
    default: Any
    values: str
    meaning: str
    stages: list[str]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: written")


def page() -> str:
    """Return the page, Markdown."""
    in_code, in_file = _comments_of_code(), _comments_of_file()
    values, schema = yaml.safe_load((ROOT / "params.yaml").read_text()), Params.model_json_schema()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    def row(section: type[Section], name: str, key: str, value: Any) -> Row:
        described = schema if section is Params else schema["$defs"][section.__name__]
        meaning = _first(in_code.get((each.__name__, name), "") for each in section.__mro__) or in_file.get(key, "")
        meaning = meaning or _first(in_code.get((each.__name__, name, "type"), "") for each in section.__mro__)
        allowed = _describe(described["properties"][name], schema["$defs"])
        return Row(key, value, allowed, meaning, [stage for stage, entry in stages.items() if _reads(entry, key)])

    top, parts = [], []
    for name, field in Params.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            top.append(row(Params, name, name, values[name]))
            continue
        section = field.annotation
        rows = [row(section, key, f"{name}.{key}", values[name][key]) for key in section.model_fields]
        about = in_file.get(name) or section.__doc__ or ""
        parts.append(f"## {name}\n\n{_sentence(about)}{_table(rows)}")
    renamed = "\n".join(f"- `{old}`: {what}" for old, what in RENAMED.items())
    gone = f"## Earlier names\n\nThe earlier name is answered with one line that says what became of it.\n\n{renamed}"
    return "\n".join([HEAD, f"## For both networks\n\n{_table(top)}", *parts, gone]) + "\n"


def _comments_of_code() -> dict[tuple[str, ...], str]:
    """Return the comments at the ends of the fields' lines, by class and field, and under "type" their types'."""
    path = ROOT / "nuclei" / "params.py"
    comments = _trailing_comments(path)
    tree = ast.parse(path.read_text())
    types = {
        node.targets[0].id: comments.get(node.end_lineno or 0, "")
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found: dict[tuple[str, ...], str] = {}
    for section in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field in (node for node in section.body if isinstance(node, ast.AnnAssign)):
            key = (section.name, ast.unparse(field.target))
            found[key] = comments.get(field.end_lineno or 0, "")
            found[(*key, "type")] = types.get(ast.unparse(field.annotation), "")
    return found


def _trailing_comments(path: Path) -> dict[int, str]:
    """Return the comment of each line of a Python file, by its number."""
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return {token.start[0]: token.string.lstrip("# ") for token in tokens}


def _comments_of_file() -> dict[str, str]:
    """Return the comments at the ends of the lines of params.yaml, by the dotted name of the parameter or section."""
    found, section = {}, ""
    for line in (ROOT / "params.yaml").read_text().splitlines():
        text, _, comment = line.partition("#")
        name = text.split(":")[0].strip()
        if not text.strip() or name.startswith("- "):
            continue
        if line.startswith(" "):
            name = f"{section}.{name}"
        else:
            section = name
        found[name] = comment.strip()
    return found


def _first(texts: Iterable[str]) -> str:
    return next(filter(None, texts), "")


def _reads(stage: dict[str, Any], key: str) -> bool:
    return any(key == read or key.startswith(f"{read}.") for read in stage.get("params", []))


def _describe(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Put a JSON schema into words."""
    if "$ref" in schema:
        section = definitions[schema["$ref"].rpartition("/")[2]]["properties"]
        return ", ".join(f"{name}: {_describe(part, definitions)}" for name, part in section.items())
    if "anyOf" in schema:
        return " or ".join(_describe(part, definitions) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_count(schema)}{_describe(schema['items'], definitions)}"
    if schema["type"] == "null":
        return "empty"
    words = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    return " ".join([words[schema["type"]], *_bounds(schema)])


def _count(schema: dict[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if least == most:
        return f"{least}: "
    return f"{least} or more: " if most is None else f"{least} to {most}: "


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"{schema['minimum']:,} to {schema['maximum']:,}"
        return
    for key, word in (
        ("minimum", "from"),
        ("exclusiveMinimum", "above"),
        ("maximum", "to"),
        ("exclusiveMaximum", "below"),
    ):
        if key in schema:
            yield f"{word} {schema[key]:,}"


def _sentence(text: str) -> str:
    """Return a section's comment as a sentence of its own."""
    text = " ".join(text.split()).rstrip(".")
    return f"{text[0].upper()}{text[1:]}.\n\n" if text else ""


def _table(rows: Iterable[Row]) -> str:
    lines = ["| parameter | default | values | meaning | read by |", "|---|---|---|---|---|"]
    for row in rows:
        default = "" if row.default is None else f"`{_yaml(row.default)}`"
        cells = [f"`{row.name}`", default or "empty", row.values, row.meaning, ", ".join(row.stages)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """Write a value as params.yaml does, on one line."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


if __name__ == "__main__":
    main()
