"""Load a weights file into a model: everything fits, or nothing is changed."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress_models.errors import WeightsError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and by torch.compile
_SHOWN = 3


@runtime_checkable
class Adopting(Protocol):
    """A layer that took the place of another one and takes that one's weights as well."""

    def adopt(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Give a state dict in this layer's names and shapes.

        Args:
            state: of the whole model; entries of others stay as they are.
            prefix: of this layer's own entries.
        """


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a ``.safetensors`` file, or a torch file that holds tensors only, into the model in place.

    A torch file is read with ``weights_only=True``: pickled code is never run.  The state dict may sit under
    ``state_dict``, ``model_state_dict`` or ``model``; a ``module.`` prefix on every name is dropped.  Batch
    counters of normalisation layers may be missing, as older files have none.  A layer may take weights of
    another form (see `Adopting`).

    Raises:
        WeightsError: the file is missing, unreadable or holds code; or names or shapes do not fit.  The model
            is unchanged then.
    """
    file = Path(path).expanduser()
    own = model.state_dict()
    given = _without_prefix(_tensors(file, _read(file)), own)
    for name, layer in model.named_modules():
        if isinstance(layer, Adopting):
            given = layer.adopt(given, f"{name}." if name else "")
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    given = {**counters, **given}
    wrong_shape = [
        f"{name} {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems = [
        *_listed("missing from the file", [n for n in own if n not in given]),
        *_listed("unknown to the model", [n for n in given if n not in own]),
        *_listed("of another shape", wrong_shape),
    ]
    if problems:
        raise WeightsError(f"weights {file} do not fit the model: {'; '.join(problems)}")
    model.load_state_dict(given)


def _read(file: Path) -> object:
    if not file.is_file():
        raise WeightsError(f"weights {file}: no such file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols; what is read is checked below
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise WeightsError(
                f"weights {file}: holds pickled code ({code[1]}) and is not read; "
                "save torch.save(model.state_dict(), path) or a .safetensors file instead"
            ) from error
        raise WeightsError(f"weights {file}: not a torch file of plain tensors, or a damaged one") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"weights {file}: unreadable or damaged ({reason})") from error
    except OSError as error:
        raise WeightsError(f"weights {file}: cannot be read ({error.strerror})") from error


def _tensors(file: Path, content: object) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights {file}: holds a {type(content).__name__}; a state dict is expected")
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        raise WeightsError(f"weights {file}: not a plain state dict: {_listed('not tensors', others)[0]}")
    return dict(content)


def _without_prefix(given: dict[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if given and _all_start(given, prefix) and not _all_start(own, prefix):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def _all_start(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"]
