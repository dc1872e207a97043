"""One spelling for whatever a user brings: ``path/to/file.py:Name`` or ``package.module:Name``."""

import functools
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from compress_models.errors import SpecError, nearest


def resolve(spec: str, *, what: str = "model", known: Iterable[str] = ()) -> Callable[..., Any]:
    """Import the class or function that a spec names.

    The working directory (and, for a file, its own folder) comes first on the import path while the module is
    imported, so that a project's ``models`` package is the one found, and last afterwards, so that imports
    inside the factory still work and shadow nothing.  A file is imported once per process.

    Args:
        spec: ``path/to/file.py:Name`` or ``package.module:Name``; the name may be dotted.
        what: the word for it in error messages: model, data or method.
        known: the built-in names, for the message when the spec is a plain wrong name.

    Raises:
        SpecError: nothing is there, its import fails (the user's line is quoted), or it is not callable.

    >>> resolve("collections:OrderedDict").__name__
    'OrderedDict'
    """
    asked = f"{what} {spec}"
    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        raise SpecError(
            f"{asked}: no built-in of this name; {nearest(spec, known)}; "
            "for your own write path/to/file.py:Name or package.module:Name"
        )
    module = _from_file(asked, source) if source.endswith(".py") else _from_module(asked, source)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            public = [n for n in vars(target) if not n.startswith("_") and callable(getattr(target, n))]
            raise SpecError(f"{asked}: {source} has no {name}; {nearest(part, public)}")
        target = getattr(target, part)
    if not callable(target):
        raise SpecError(f"{asked}: {name} is a {type(target).__name__}; name a class or a function")
    return target  # type: ignore[no-any-return]  # callable() cannot narrow Any


def quote(error: BaseException) -> str:
    """Say in one line where a user's code went wrong: file, line, its text, the error."""
    message = str(error).strip().partition("\n")[0]
    if isinstance(error, SyntaxError) and error.filename:
        file, number, text = error.filename, error.lineno, (error.text or "").strip()
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_user_code(f.filename)]
        if not frames:
            return f"{type(error).__name__}: {message}"
        file, number, text = frames[-1].filename, frames[-1].lineno, (frames[-1].line or "").strip()
    return f"{file}, line {number}: `{text}`: {type(error).__name__}: {message}"


def arguments(
    asked: str, factory: Callable[..., Any], options: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    """Check a factory's options against its signature before it is called.

    Args:
        asked: what was asked for, for messages.
        factory: the class or function to be called.
        options: given by the user; each must be a parameter of the factory.
        defaults: facts that each apply only if the factory has a parameter of that name.

    Raises:
        SpecError: an option the factory does not have, or a parameter without a value.
    """
    parameters = inspect.signature(factory).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in named:
                raise SpecError(f"{asked}: no option {option}; {nearest(option, named)}")
    values = {name: value for name, value in defaults.items() if name in named} | options
    missing = [name for name, p in named.items() if p.default is p.empty and name not in values]
    if missing:
        raise SpecError(f"{asked}: needs a value for {', '.join(missing)}; give it as an option")
    return values


def _from_file(asked: str, source: str) -> ModuleType:
    file = Path(source).expanduser().resolve()
    if not file.is_file():
        siblings = [f.name for f in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise SpecError(f"{asked}: no file {file}; in that folder: {nearest(file.name, siblings)}")
    name = f"{file.stem}_{sha256(bytes(file)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise SpecError(f"{asked}: {file} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    try:
        with _first_on_path(file.parent, Path.cwd()):
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script without a __main__ guard may exit
        del sys.modules[name]
        raise SpecError(f"{asked}: its import failed: {quote(error)}") from error
    return module


def _from_module(asked: str, source: str) -> ModuleType:
    try:
        with _first_on_path(Path.cwd()):
            return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(f"{error.name}.")):
            raise SpecError(
                f"{asked}: no module {error.name} in {Path.cwd()} or installed; for a file write path/to/file.py:Name"
            ) from error
        raise SpecError(f"{asked}: its import failed: {quote(error)}") from error
    except (Exception, SystemExit) as error:
        raise SpecError(f"{asked}: its import failed: {quote(error)}") from error


@contextmanager
def _first_on_path(*folders: Path) -> Iterator[None]:
    added = list(dict.fromkeys(str(folder) for folder in folders))
    sys.path[:0] = added
    importlib.invalidate_caches()  # the user's file may be younger than the finder's listing of its folder
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)
            if folder not in sys.path:
                sys.path.append(folder)


def _is_user_code(file: str) -> bool:
    installed = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [str(Path(__file__).parent), *installed]
    return not file.startswith("<") and not any(file.startswith(folder) for folder in ours)


def source_of(factory: object) -> Path | None:
    """The file that defines a factory, also of a partial, a wrapped function or a callable object; None if unknown."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    factory = inspect.unwrap(factory) if callable(factory) else factory
    for candidate in (factory, type(factory)):
        try:
            file = inspect.getsourcefile(candidate)  # type: ignore[arg-type]
        except TypeError:  # not something that has source
            continue
        if file:
            return Path(file)
    return None
