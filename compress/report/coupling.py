"""The picture of which layers share channels: layers as rows, blocks of channel groups as lines between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from compress.report.fields import Report, clean
from compress.report.formats import count, operations
from compress.report.inspection import coupled, share, staying

COLOURS = (
    ("#0067a3", "#58aee6"),
    ("#b4540a", "#f0a35e"),
    ("#0a6b58", "#4cc3a5"),
    ("#8a3a9c", "#cf8fe0"),
    ("#a8321a", "#f08a6e"),
    ("#6b6200", "#d3c64a"),
    ("#3b4cc0", "#9aa6f5"),
    ("#8c4a6b", "#e79bbf"),
)
"""Of the lines, on light and on dark paper."""

ROW, TOP, GAP = 20, 26, 18
LONGEST_NAME = 46
LETTER = 6.7
"""Pixels of a letter; generous, since the reader's font is not known."""
BAR = 80
"""Pixels of the largest share."""
WIDEST_LANE, NARROWEST_LANE, ALL_LANES = 18.0, 6.0, 300
"""Pixels between two lines, and of all of them where there are many."""
DENSE = 4.0
"""Radius of a mark from which on lines are drawn thinner."""
NAMED = 8
"""Names in a tooltip."""


@dataclass(frozen=True)
class Band:
    """A block as it is drawn: its rows, its lane (place from the left), its colour."""

    block: Mapping[str, Any]
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    lane: int = 0
    colour: int = 0

    @property
    def rows(self) -> list[int]:
        """The layers that lose something, from the top."""
        return sorted({*self.makes, *self.reads})


def bands(report: Report) -> list[Band]:
    """Every block with a lane of its own as long as it lasts, and a colour that none beside it has."""
    order = {layer["name"]: row for row, layer in enumerate(report["layers"])}
    found: list[Band] = []
    for block in report["blocks"]:
        makes, reads = (tuple(order[name] for name in block[key]) for key in ("makes", "reads"))
        rows = Band(block, makes, reads).rows
        beside = [other for other in found if other.rows[-1] >= rows[0] and other.rows[0] <= rows[-1]]
        lanes, colours = {other.lane for other in beside}, {other.colour for other in beside}
        # colours in turn, so that lines that follow each other on one lane differ as well
        after = found[-1].colour + 1 if found else 0
        turn = [(after + step) % len(COLOURS) for step in range(len(COLOURS))]
        lane = next(lane for lane in range(len(lanes) + 1) if lane not in lanes)
        found.append(Band(block, makes, reads, lane, next((c for c in turn if c not in colours), turn[0])))
    return found


def described(report: Report) -> str:
    """The picture in words."""
    said = [
        f"{clean(block['name'])}, {count(block['groups'])} groups: {coupled(block, NAMED)}"
        for block in report["blocks"]
    ]
    return f"Layers and the channels they share. {'. '.join(said) or 'No channel can be removed'}."


def picture(report: Report) -> str:
    """An ``<svg>`` element with neither scripts nor outside references; the same answer gives the same text."""
    drawn = bands(report)
    places = _Places(report, drawn)
    width, height = places.width, TOP + ROW * len(report["layers"])
    rows = [_row(report, drawn, places, row) for row in range(len(report["layers"]))]
    lines = [_band(report, band, places) for band in drawn]
    return _element(
        "svg",
        _heads(places),
        *rows,
        *lines,
        class_="coupling" if places.radius > DENSE else "coupling dense",
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height}",
        aria_hidden="true",
        focusable="false",
    )


class _Places:
    """Where the columns and rows lie, in pixels."""

    def __init__(self, report: Report, drawn: Sequence[Band]) -> None:
        layers = report["layers"]
        lanes = max((band.lane + 1 for band in drawn), default=1)
        self.step = round(min(WIDEST_LANE, max(NARROWEST_LANE, ALL_LANES / lanes)), 1)
        self.radius = round(min(5.0, 0.44 * self.step), 1)
        self.name = 8 + _wide([_short(layer["name"]) for layer in layers])
        self.lane = self.name + GAP
        self.groups = self.lane + self.step * (lanes - 1) + GAP
        begun = [" ".join(said for said, *_ in _begun(report, drawn, row)) for row in range(len(layers))]
        self.kind = self.groups + GAP + _wide([*begun, "Groups"])
        self.share = self.kind + GAP + _wide([_kind(layer) for layer in layers])
        self.width = self.share + BAR + 60
        self.most = max(layer["macs"] for layer in layers) or 1

    def x(self, band: Band) -> float:
        """Of a block's line."""
        return self.lane + self.step * band.lane

    @staticmethod
    def y(row: int) -> float:
        """Of the middle of a row."""
        return TOP + ROW * (row + 0.5)


def _wide(texts: Sequence[str]) -> float:
    """Room for the longest of some texts."""
    return round(LETTER * max(map(len, texts)))


def _heads(places: _Places) -> str:
    heads = (
        _text("Layer", places.name, 14, text_anchor="end", class_="quiet"),
        _text("Groups", places.groups, 14, class_="quiet"),
        _text("Kind, out x in", places.kind, 14, class_="quiet"),
        _text("Share of the MACs", places.share, 14, class_="quiet"),
    )
    return "".join(heads)


def _row(report: Report, drawn: Sequence[Band], places: _Places, row: int) -> str:
    """One layer: its name, the groups it begins, its kind, its share of the multiply-accumulates."""
    layer, y = report["layers"][row], places.y(row)
    marks = [places.x(band) for band in drawn if row in band.rows]
    bar = round(BAR * layer["macs"] / places.most, 1)
    parts = [
        _element("title", escape(_about(report, drawn, row))),
        _element("rect", class_="odd" if row % 2 else "even", y=y - ROW / 2, width=places.width, height=ROW),
        _text(_short(layer["name"]), places.name, y + 4, text_anchor="end"),
        _text(_kind(layer), places.kind, y + 4, class_="quiet"),
        _element("rect", class_="share", x=places.share, y=y - 5, width=bar, height=10),
        _text(share(layer["macs"], report["macs"]), places.share + bar + 6, y + 4, class_="quiet"),
    ]
    if len(marks) > 1:
        parts.append(_element("line", class_="link", x1=min(marks), x2=max(marks), y1=y, y2=y))
    parts += [
        _text(said, places.groups + shift, y + 4, class_=colour) for said, shift, colour in _begun(report, drawn, row)
    ]
    return _element("g", *parts, class_="row")


def _band(report: Report, band: Band, places: _Places) -> str:
    """One block: its line and a mark on every row that loses something with it."""
    x, rows = places.x(band), band.rows
    ends = {"x1": x, "x2": x, "y1": places.y(rows[0]), "y2": places.y(rows[-1])}
    marks = []
    for row in rows:
        at = {"cx": x, "cy": places.y(row)}
        marks.append(_element("circle", class_="makes" if row in band.makes else "reads", **at, r=places.radius))
        if row in band.makes and row in band.reads:
            marks.append(_element("circle", class_="centre", **at, r=2))
    exact = band.block["exact"] == band.block["groups"]
    return _element(
        "g",
        _element("title", escape(_promised(report, band.block))),
        _element("line", class_="target", **ends),
        _element("line", class_="whole", **ends),
        *marks,
        class_=f"band c{band.colour}{'' if exact else ' inexact'}",
    )


def _about(report: Report, drawn: Sequence[Band], row: int) -> str:
    """What a row's tooltip says."""
    layer = report["layers"][row]
    said = [
        f"{clean(layer['name'])}: {_kind(layer)}; {count(layer['weights'])} weights, "
        f"{operations(layer['macs'])} multiply-accumulates"
    ]
    for what, rows in (("makes", "makes"), ("reads", "reads")):
        said += [f"{what} channels of {clean(b.block['name'])}" for b in drawn if row in getattr(b, rows)][:NAMED]
    if stays := staying(report, layer):
        said.append(f"{stays[0]} frozen: {stays[1]}")
    return "\n".join(said)


def _promised(report: Report, block: Report) -> str:
    """What a line's tooltip says."""
    one, half = block["one"], block["half"]
    found = f"{count(block['groups'])} groups, {count(block['exact'])} removable exactly"
    return (
        f"channels of {clean(block['name'])}: {found}\n"
        f"{coupled(block, NAMED)}\n"
        f"one saves {count(one['weights'][0])} weights and {operations(one['macs'][0])} multiply-accumulates; half of "
        f"them {share(half['weights'], report['weights'])} of the weights and {share(half['macs'], report['macs'])} of "
        "the multiply-accumulates"
    )


def _begun(report: Report, drawn: Sequence[Band], row: int) -> list[tuple[str, float, str]]:
    """What a row adds: the groups of the blocks it begins and its fixed channels, each with its place and class."""
    layer = report["layers"][row]
    said = [(count(band.block["groups"]), f"c{band.colour}") for band in drawn if band.makes[0] == row]
    if fixed := layer["out"] - layer["removable"]:
        said.append((f"{count(fixed)} fixed", "quiet"))
    widths = [LETTER * (len(text) + 1) for text, _ in said]
    return [(text, round(sum(widths[:place]), 1), colour) for place, (text, colour) in enumerate(said)]


def _kind(layer: Report) -> str:
    return f"{layer['kind']}, {count(layer['out'])} x {count(layer['in'])}"


def _short(name: str) -> str:
    # the end of a layer's dotted name tells it from its neighbours
    said = clean(name)
    return said if len(said) <= LONGEST_NAME else f"...{said[3 - LONGEST_NAME :]}"


def _text(said: str, x: float, y: float, **attributes: object) -> str:
    return _element("text", escape(said), x=x, y=y, **attributes)


def _element(name: str, *content: str, **attributes: object) -> str:
    """An element; `aria_hidden` stands for aria-hidden, `class_` for class. The content is markup already."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(f"{value:g}" if isinstance(value, float) else str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{''.join(content)}</{name}>"
