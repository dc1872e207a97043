"""What is asked of an ONNX file: from the words of the command line, with those refused that need a PyTorch model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import UsageError
from compress.options import MEASURING
from compress.recipe import DataSection, ValidateSection
from compress.recipe_text import build, override, parse_assignment

BY_DEFAULT = ("sparse",)
"""Formats written where none is asked for."""

TAKEN = {
    "data": "data.name",
    "data_root": "data.root",
    **MEASURING,
}
"""Command-line option -> key of the recipe, of what an ONNX file can be asked."""

ITS_OWN = ("model", "formats", "input_shapes", "round_channels")
SETTABLE = ("validate.", "data.mean", "data.std", "data.image_size", "data.workers")


@dataclass(frozen=True)
class Question:
    """What is asked of a file.

    Attributes:
        file: any ONNX file; it is not trusted, and not changed.
        input_shapes: "NAME=1,3,224,224" for each input whose sizes the file leaves open.
        round_channels: keep channel counts at multiples of this where dead channels allow.
        data: images to test on; None measures no accuracy.
        formats: further files to write; None writes the usual ones where the file allows.
        validate: targets, threads, time and gates.
    """

    file: Path
    input_shapes: tuple[str, ...] = ()
    round_channels: int = 1
    data: DataSection | None = None
    formats: tuple[str, ...] | None = None
    validate: ValidateSection = field(default_factory=ValidateSection)

    def to_dict(self) -> dict[str, Any]:
        """What was asked, by the names of a recipe."""
        asked: dict[str, Any] = {
            "model": {"name": str(self.file), "input_shapes": list(self.input_shapes)},
            "compact": {"round_channels": self.round_channels},
            "export": {"formats": list(self.formats or BY_DEFAULT)},
            "validate": self.validate.model_dump(mode="json", exclude_none=True),
        }
        return asked | ({"data": self.data.model_dump(mode="json", exclude_none=True)} if self.data else {})


def asked(recipe: str | None, assignments: Sequence[str], options: Mapping[str, Any]) -> Question:
    """The question that the command line puts.

    Args:
        recipe: the command's argument; refused.
        assignments: "KEY=VALUE" of --set.
        options: by name; None or empty where not given.

    Raises:
        UsageError: something needs the PyTorch model, or is no value of its key.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    settings = dict(map(parse_assignment, assignments))
    refused = [f"the recipe {recipe}"] if recipe else []
    refused += [_spelled(name) for name in given if name not in (*TAKEN, *ITS_OWN)]
    refused += [f"--set {key}" for key in settings if not key.startswith(SETTABLE)]
    if refused:
        raise UsageError(
            f"{', '.join(refused)}: training, pruning and tracing need the PyTorch model, and {given['model']} is an "
            "ONNX file, which is compacted, converted, compared and measured as it is; leave that out, or give the "
            "model itself"
        )
    values = {key: given[name] for name, key in TAKEN.items() if name in given} | settings
    plain = {key: _plain(value) for key, value in values.items()}
    if "data" not in given and any(key.startswith("data.") for key in plain):
        raise UsageError("--data-root and --set data.KEY say how --data is read, and none is given; add --data")
    table = build(override({}, plain))
    return Question(
        file=Path(given["model"]).expanduser(),
        input_shapes=tuple(given.get("input_shapes", ())),
        round_channels=given.get("round_channels", 1),
        data=table.data if "data" in given else None,
        formats=tuple(given["formats"]) if "formats" in given else None,
        validate=table.validate_,
    )


def _spelled(option: str) -> str:
    return "--" + option.replace("_", "-")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
