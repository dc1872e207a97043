"""A network from a spec with weights from a file: full size, or as narrow as a run delivered it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from compress.compaction import restore
from compress.compaction.narrow import CHANGES
from compress.data import Data
from compress.errors import UsageError, first_line
from compress_models import SpecError, WeightsError, input_shape, load
from compress_models import load_weights as load_full_size

_OPTIONS = "model.options."
_KEY = "attributes"
"""Metadata of a safetensors file: what `compress.compaction.restore` needs to make a fresh network as narrow."""


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """The model with weights from a file; as narrow as they are where the file says how.

    Args:
        model: full size; weights that fit are loaded into it in place.
        path: a run's model.safetensors, or whatever `compress_models.load_weights` takes.

    Returns:
        The given model, or a narrower copy.

    Raises:
        UsageError: the file says how to narrow another model, or what no compaction writes.
        WeightsError: the weights do not fit the model.
    """
    file = Path(path).expanduser()
    state, attributes = _narrowed(file)
    if not attributes:
        load_full_size(model, file)
        return model
    try:
        return restore(model, state, attributes)
    except UsageError as error:
        raise UsageError(f"weights {file}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UsageError(f"weights {file}: what they say of widths is damaged ({first_line(error)})") from None


def attributes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What changed in a narrowed model since it was built; empty for one of full size."""
    return {path: dict(changed) for path, changed in getattr(model, CHANGES, {}).items()}


def save_weights(state: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Write weights as safetensors, with what makes a fresh network as narrow as they are."""
    # as bytes: the library's own writing tells of a full disk in an error that is no OSError
    file.write_bytes(save({name: value.clone() for name, value in state.items()}, {_KEY: json.dumps(attributes)}))


def load_network(
    spec: str,
    weights: Path | None = None,
    *,
    shape: str | None = None,
    assignments: Sequence[str] = (),
    data: Data | None = None,
) -> tuple[nn.Module, tuple[int, ...]]:
    """The network that a command names, in evaluation mode, and the shape of one of its inputs.

    Args:
        spec: as for ``compress_models.load``.
        weights: file of weights; fresh ones, always the same, where there is none.
        shape: of one input, "3,224,224"; the data's, or the network's own, where it is None.
        assignments: "model.options.KEY=VALUE", as in ``prune-and-export --set``.
        data: says the number of classes as well.

    Raises:
        UsageError: it cannot be loaded, or does not say what input it takes.
    """
    options = _options(assignments)
    sizes: tuple[int, ...] | None = data.input_shape if data else None if shape is None else parse_shape(shape)
    # the same facts as a run takes from its data
    defaults = dict(zip(("in_channels", "input_size"), sizes, strict=False)) if sizes and len(sizes) == 3 else {}
    if data and data.classes:
        defaults["num_classes"] = len(data.classes)
    torch.manual_seed(0)  # fresh weights, and so what is said of them, are the same every time
    try:
        model = load(spec, options, defaults=defaults)
        if weights is not None:
            model = load_weights(model, weights)
    except (SpecError, WeightsError) as error:
        raise UsageError(str(error)) from None
    sizes = sizes or input_shape(spec, options)
    if sizes is None:
        raise UsageError(f"model {spec} does not say what input it takes; give it, for example --input-shape 3,224,224")
    return model.eval(), sizes


def parse_shape(text: str) -> tuple[int, ...]:
    """The sizes of one input.

    >>> parse_shape("3,224,224")
    (3, 224, 224)

    Raises:
        UsageError: these are no sizes.
    """
    sizes = [size.strip() for size in text.split(",")]
    if not all(size.isascii() and size.isdigit() and int(size) for size in sizes):
        raise UsageError(f"--input-shape wants whole numbers above 0, without the batch, got {text!r}; 3,224,224")
    return tuple(map(int, sizes))


def delivered(folder: Path) -> Path:
    """The weights that a finished run left in its directory.

    Raises:
        UsageError: it is no run directory, or the run is not finished.
    """
    file = folder / "checkpoints" / "model.safetensors"
    if not (folder / "recipe.toml").is_file() or not file.is_file():
        raise UsageError(
            f"{folder} holds no finished run of a PyTorch model (recipe.toml and {file.relative_to(folder)}); "
            "finish it with prune-and-export, or name a model"
        )
    return file


def _options(assignments: Sequence[str]) -> dict[str, Any]:
    from compress.recipe_text import parse_assignment

    given = dict(map(parse_assignment, assignments))
    for key in given:
        if not key.removeprefix(_OPTIONS) or not key.startswith(_OPTIONS):
            raise UsageError(f"--set {key}: only the model is built here; write --set {_OPTIONS}KEY=VALUE")
    return {key.removeprefix(_OPTIONS): value for key, value in given.items()}


def _narrowed(file: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """State and attributes of a file that says how to narrow a network; both empty for any other file."""
    if file.suffix != ".safetensors" or not file.is_file():
        return {}, {}
    try:
        with safe_open(file, "pt") as opened:
            said = (opened.metadata() or {}).get(_KEY)
            state = {name: opened.get_tensor(name) for name in opened.keys()} if said else {}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError):
        return {}, {}  # the loader of full-size weights says what is wrong with the file
    try:
        return state, _checked(json.loads(said or "{}"))
    except (ValueError, TypeError, RecursionError):
        raise UsageError(
            f"weights {file}: the metadata {_KEY!r} is not what compaction writes; save them again"
        ) from None


def _checked(found: Any) -> dict[str, dict[str, Any]]:
    """Attributes as compaction writes them: plain numbers of modules, and at the root a rewritten forward pass.

    Raises:
        ValueError: anything else; a file must not be able to set what is no number.
    """
    checked: dict[str, dict[str, Any]] = {}
    for path, changes in dict(found).items():
        for name, value in dict(changes).items():
            forward = (path, name) == ("", "forward") and isinstance(value, dict)
            sizes = value if isinstance(value, list) else [value]
            if not forward and (name.startswith("_") or not all(type(size) is int for size in sizes)):
                raise ValueError(name)
            # JSON has no tuples, and modules compare their shapes with some
            checked.setdefault(path, {})[name] = tuple(value) if isinstance(value, list) else value
    return checked
