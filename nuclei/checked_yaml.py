"""A plain YAML file, checked against a schema: whatever is wrong with it ends in one line that says how to mend it."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nuclei.errors import InputError
from nuclei.files import require_file

LARGEST_FILE = 2**16  # bytes
MOST_PROBLEMS = 5  # in one line

Schema = TypeVar("Schema", bound=BaseModel)


def load_checked(path: Path, schema: type[Schema], renamed: Mapping[str, str]) -> Schema:
    """Read and check the whole of a file.

    Args:
        path: Of the file: at most 64 KiB of plain YAML.
        schema: Its keys and what fits them; sections are fields that are schemas themselves.
        renamed: Keys of earlier versions, dotted, and what became of them.

    Raises:
        InputError: It cannot be read, or does not fit; names each wrong key, its value and what fits.
    """
    try:
        require_file(path)
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: larger than {LARGEST_FILE // 2**10} KiB: expected the project's parameters")
        values = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: not plain YAML ({line}{error.problem}): correct it") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not plain YAML ({' '.join(str(error).split())}): correct it") from None
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, schema, renamed) for problem in error.errors(include_url=False)]
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    raise InputError(f"{path}: {'; '.join(problems[:MOST_PROBLEMS])}{more}")


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases, which can stand for any amount of text, no tags, no key twice, of which the last won."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refuse("an alias: write out what it stands for", event)
        if getattr(event, "tag", None):
            raise _refuse("a tag: leave it out", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refuse("a key that is no name", key)
            if key.value in seen:
                raise _refuse(f"{key.value!a:.60} a second time: keep one", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Numbers as YAML 1.2 has them, by which DVC reads and writes. PyYAML's are those of 1.1: 5e-05 is text, 064 is 52 and
# 1:04 is 64.
INTEGER, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INTEGER, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    INTEGER, re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"[-+]?(?:(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(
    INTEGER, lambda loader, node: int(node.value.replace("_", ""), 0 if node.value.lstrip("-+")[1:2].isalpha() else 10)
)


def _refuse(problem: str, item: Any) -> yaml.MarkedYAMLError:
    """Return the error that names the line of an event or a node of YAML."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=item.start_mark)


def _describe(problem: ErrorDetails, schema: type[BaseModel], renamed: Mapping[str, str]) -> str:
    """Say which key is wrong, what its value is and what fits."""
    key = ".".join(str(part) if str(part).isidentifier() else ascii(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden" and key in renamed:
        return f"{key}: {renamed[key]}"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such parameter; {_nearest(_keys(schema), *map(str, problem['loc']))}"
    if problem["type"] == "missing":
        return f"{key}: missing: add it"
    given = problem["input"]
    remedy = " in quotes: leave them out" if isinstance(given, str) and _is_number(given) else ""
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}, got {given!a:.60}{remedy}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii()


def _nearest(known: list[str], *unknown: str) -> str:
    """Name the key that was probably meant by `unknown`: a like one of its section, or else of another."""
    *parents, name = unknown
    siblings = [key for key in known if key.split(".")[:-1] == parents]
    for keys, likeness in ((siblings, 0.6), (known, 0.8)):
        last = [key.split(".")[-1] for key in keys]
        for like in get_close_matches(name, last, n=1, cutoff=likeness):
            return f"did you mean {' or '.join(key for key in keys if key.split('.')[-1] == like)}?"
    return f"expected one of {', '.join(siblings)}"


def _keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """List the keys of `schema` and, dotted, of the sections in it."""
    keys = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
