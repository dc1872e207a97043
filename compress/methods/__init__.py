"""The pruning methods: one file each, and the folder is the table.

A file ``foo.py`` that defines one final dataclass derived from `PruningMethod` *is* the method ``foo``.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import UsageError, nearest

if TYPE_CHECKING:
    from compress.method import PruningMethod


_WITHOUT = {
    True: "Its budget holds while it prunes; what it leaves is not pruned to it.",
    False: "How much is pruned is not its to decide: it takes no budget.",
}


def names() -> list[str]:
    """Names of the built-in methods."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def summaries() -> dict[str, str]:
    """Every built-in method with the first line of its file, read without importing it."""
    lines = {}
    for name in names():
        source = (Path(__file__).parent / f"{name}.py").read_text()
        lines[name] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return lines


def describe(spec: str) -> str:
    """What a method does, its formulas and paper, the units it prunes and its knobs with their defaults.

    Raises:
        UsageError: as `find`.
    """
    method = find(spec)
    units = [kind for kind in ("element", "channel") if kind not in method.refuses]
    lines = [
        f"{spec}: {inspect.getdoc(method)}",
        "",
        f"Units: {', '.join(units)}" + "".join(f"; no {kind}s: {why}" for kind, why in method.refuses.items()),
        f"Epochs of a step by default: {method.epochs}" + ("" if method.retrains else ", and no retraining after it"),
        "" if method.meets_budget else _WITHOUT[build(spec, {}).needs_budget],
        "Defaults, to be set in a recipe's step or by --set prune.0.KEY=VALUE:"
        if dataclasses.fields(method)
        else "It has no knobs.",
        *(f"  {knob.name} = {json.dumps(knob.default)}" for knob in dataclasses.fields(method)),
    ]
    return "\n".join(line for number, line in enumerate(lines) if line or number == 1)


def find(spec: str) -> "type[PruningMethod]":
    """The method class of a built-in name, ``path/to/file.py:Class`` or ``package.module:Class``.

    Raises:
        UsageError: no such method, or the thing found is not one.
    """
    from compress.method import PruningMethod

    if ":" in spec:
        from compress_models import SpecError, resolve

        try:
            found: Any = resolve(spec, what="method", known=names())
        except SpecError as error:
            raise UsageError(str(error)) from None
        if not (isinstance(found, type) and issubclass(found, PruningMethod)):
            raise UsageError(f"method {spec!r} is {found!r}; expected a class derived from PruningMethod")
        return found
    if spec not in names():
        raise UsageError(f"no method {spec!r}; {nearest(spec, names())}")
    module = importlib.import_module(f"{__name__}.{spec}")
    return next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, PruningMethod) and thing.__module__ == module.__name__
    )


def build(spec: str, knobs: Mapping[str, Any]) -> "PruningMethod":
    """A method with the given knobs.

    Raises:
        UsageError: unknown knob (with the nearest), or a value of the wrong type or range.
    """
    method = find(spec)
    known = [f.name for f in dataclasses.fields(method)]
    for knob in knobs:
        if knob not in known:
            raise UsageError(f"method {spec} has no knob {knob!r}; {nearest(knob, known)}")
    from pydantic import TypeAdapter, ValidationError

    try:
        built: PruningMethod = TypeAdapter(method).validate_python(dict(knobs))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"method {spec}: {where} = {first['input']!r}: {first['msg']}") from None
    return built
