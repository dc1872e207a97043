"""The ready recipes that come with the tool, by name; nothing heavy is imported to list them."""

from importlib import resources
from importlib.resources.abc import Traversable


def folder() -> Traversable:
    """Where they lie, one TOML file each."""
    return resources.files("compress_models") / "recipes"


def builtin() -> dict[str, str]:
    """Name -> first comment line of its file.

    >>> "lenet5-mnist" in builtin()
    True
    """
    files = sorted((f for f in folder().iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text("utf-8").splitlines()[0].lstrip("# ") for f in files}
