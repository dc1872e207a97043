"""From TOML and words on the command line to a recipe, and every fault in one line."""

import copy
import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compress.builtin_recipes import builtin, folder
from compress.errors import UsageError, nearest
from compress.recipe import Recipe


def read(spec: str) -> dict[str, Any]:
    """The raw table of a built-in recipe or of a TOML file.

    Raises:
        UsageError: no such recipe, unreadable file, or not TOML.
    """
    if spec in builtin():
        return tomllib.loads((folder() / f"{spec}.toml").read_text("utf-8"))
    path = Path(spec)
    if path.suffix != ".toml":
        raise UsageError(f"no recipe {spec!r}; {nearest(spec, builtin())}; a file must end in .toml")
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not valid TOML: {error}") from None


def override(table: dict[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a raw table with dotted keys set; ``prune.0.lr`` counts steps from 0.

    >>> override({"train": {"lr": 0.1}}, {"train.epochs": 3})
    {'train': {'lr': 0.1, 'epochs': 3}}

    Raises:
        UsageError: the path runs through something that is not a section, or past the last step.
    """
    result = copy.deepcopy(table)
    for dotted, value in assignments.items():
        *path, last = dotted.split(".")
        node: Any = result
        for part in path:
            node = _child(node, part, dotted)
        if not isinstance(node, dict):
            raise UsageError(f"--set {dotted}: {'.'.join(path)} is not a section")
        node[last] = value
    return result


def _child(node: Any, part: str, dotted: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise UsageError(
                f"--set {dotted}: the recipe has {len(node)} prune step(s), counted from 0; there is none {part!r}"
            )
        return node[int(part)]
    if not isinstance(node, dict):
        raise UsageError(f"--set {dotted}: {part!r} is not inside a section")
    return node.setdefault(part, [] if part == "prune" else {})


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` with a TOML value; what is not TOML is taken as a string.

    >>> parse_assignment("train.lr=0.01"), parse_assignment("model.name=resnet20")
    (('train.lr', 0.01), ('model.name', 'resnet20'))

    Raises:
        UsageError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set wants key=value, got {text!r}; for example --set train.lr=0.01")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def build(table: Mapping[str, Any]) -> Recipe:
    """Validate a raw table.

    Raises:
        UsageError: unknown key (with the nearest), wrong type or value out of range, in one line.
    """
    try:
        return Recipe.model_validate(dict(table))
    except ValidationError as error:
        raise UsageError(_explain(error, table)) from None


def _explain(error: ValidationError, table: Mapping[str, Any]) -> str:
    """One line for the first fault: where, what was found, what is valid."""
    first = error.errors()[0]
    where = _place(first["loc"], table)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, key = [part for part in first["loc"] if not isinstance(part, int)]
        return f"recipe has no key {where!r}; {nearest(str(key), _keys(parents))}"
    valid = dict.fromkeys(e["msg"] for e in error.errors() if _place(e["loc"], table) == where)
    return f"recipe key {where} = {first['input']!r}: {' or '.join(valid)}"


def _place(loc: tuple[int | str, ...], table: Mapping[str, Any]) -> str:
    """Dotted key of a fault; what follows the value that was given names types tried, and is left out."""
    node: Any = table
    parts: list[str] = []
    for part in loc:
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int):
            node = node[part]
        else:
            break
        parts.append(str(part))
    return ".".join(parts)


def _keys(path: list[Any]) -> list[str]:
    """Names valid in a section of the recipe."""
    section: Any = Recipe
    for part in path:
        field = next(f for name, f in section.model_fields.items() if part in (name, f.alias))
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        section = next(kind for kind in kinds if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))
    if dataclasses.is_dataclass(section):
        return [f.name for f in dataclasses.fields(section)]
    return [field.alias or name for name, field in section.model_fields.items()]
