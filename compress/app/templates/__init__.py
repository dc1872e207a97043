"""The bundle's files: programs that are copied as they are, and texts that are filled in."""

from importlib.resources import files
from typing import Any

PROGRAMS = (
    "python/classify.py",
    "node/classify.js",
    "node/package.json",
    "c/classify.c",
    "android/Classify.kt",
    "ios/Classify.swift",
)


def program(name: str) -> bytes:
    """A file that is the same in every bundle."""
    return (files("compress.app.templates") / name).read_bytes()


def render(template: str, **names: Any) -> str:
    """A filled-in text; values are escaped in HTML and taken as they are in plain text and Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("compress.app", "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**names)
