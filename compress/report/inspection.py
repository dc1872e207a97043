"""What ``compress inspect`` found, in words and tables, and on a terminal."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from compress.report.console import _print, _table
from compress.report.fields import Report, clean
from compress.report.formats import UNKNOWN, count, listing, operations, percent
from compress.report.tables import Table

PIPE_WIDTH = 160
"""Where there is no terminal, a table may be this wide before its words are folded."""
SHOWN = 3
"""Names given of a long list; the JSON has them all."""

REASONS = {
    "no rule": "no rule is known for this operator, so the channels that meet it are left alone",
    "mixes channels": "every result depends on all channels, so that none can go exactly",
    "the order of channels": "its result is an order of channels, so the channels that meet it are left alone",
}
"""Reasons of compaction that want more words than the general ones."""


def summary(report: Report, console: Console, *, quiet: bool = False) -> None:
    """Print the totals and, unless `quiet`, the tables."""
    _print(console, Text.assemble((title(report), "bold"), f" - {verdict(report)}"))
    _print(console, Text(totals(report)))
    if quiet:
        return
    for table in tables(report, shown=SHOWN):
        _table(console, table.columns, table.rows, words=table.words, widest=PIPE_WIDTH)
    for said in remarks(report):
        console.print()
        _print(console, Text(said))


def tables(report: Report, *, shown: int) -> list[Table]:
    """Every table that has rows; of a long list of names the first `shown`."""
    made = (layers(report), blocks(report), coupling(report, shown), frozen(report, shown))
    return [table for table in made if table.rows]


def title(report: Report) -> str:
    """The model and what it takes."""
    return f"{clean(report['model'])}, input {' x '.join(map(str, report['input_shape']))}"


def verdict(report: Report) -> str:
    """In one sentence: how much can be removed, or why nothing can."""
    groups, exact = report["groups"], report["groups_exact"]
    if not groups:
        return f"no channel can be removed: {_obstacle(report)}"
    said = "all" if exact == groups else count(exact) if exact else "none"
    return f"{count(groups)} channel groups in {_blocks(report)}, {said} removable exactly"


def totals(report: Report) -> str:
    """Weights and multiply-accumulates of the whole network."""
    origin = f"weights from {clean(report['weights_file'])}" if report["weights_file"] else "fresh weights"
    return (
        f"{count(report['weights'])} weights, {_nonzero(report)} nonzero; "
        f"{operations(report['macs'])} multiply-accumulates; {origin}"
    )


def headline(report: Report) -> list[tuple[str, str, str]]:
    """The figures on top of the page: what, how much, a remark."""
    return [
        ("Weights", count(report["weights"]), f"{_nonzero(report)} nonzero"),
        ("Multiply-accumulates", operations(report["macs"]), "for one input"),
        ("Channel groups", count(report["groups"]), f"in {_blocks(report)}"),
        ("Removable exactly", count(report["groups_exact"]), f"of {count(report['groups'])} groups"),
    ]


def remarks(report: Report) -> list[str]:
    """What a reader must know beside the tables."""
    said = [f"MACs: {report['macs_convention']}."]
    if report["blocks"]:
        said.append(
            "One: what removing one group alone saves. Half: what removing half of a block's groups alone saves, as a "
            "share of the whole network. Norms and biases are cut as well, but are not counted."
        )
    if report["groups_in_no_block"]:
        said.append(
            f"{count(report['groups_in_no_block'])} more groups are made by parameters that are no weights of a "
            "convolution or linear layer; pruning methods leave them alone."
        )
    if report["groups"] > report["groups_exact"]:
        said.append(
            "Groups that are not removable exactly stay in prune-and-export; compress.remove cuts them, and what the "
            "network computes changes."
        )
    return said


def layers(report: Report) -> Table:
    """Every layer with weights to prune, in execution order, with its share of the whole."""
    body = [
        (
            clean(layer["name"]),
            layer["kind"],
            f"{count(layer['out'])} x {count(layer['in'])}",
            count(layer["weights"]),
            share(layer["weights"], report["weights"]),
            _nonzero(layer),
            operations(layer["macs"]),
            share(layer["macs"], report["macs"]),
        )
        for layer in report["layers"]
    ]
    body.append(("Total", "", "", count(report["weights"]), "", _nonzero(report), operations(report["macs"]), ""))
    columns = ("Layer", "Kind", "Out x in", "Weights", "Share", "Nonzero", "MACs", "Share")
    return Table("layers", "Layers in execution order", columns, tuple(body), words=2, total=True)


def blocks(report: Report) -> Table:
    """Every block of channel groups, and what its removal would save."""
    body = tuple(
        (
            clean(block["name"]),
            count(block["groups"]),
            count(block["exact"]),
            _range(block["one"]["weights"], count),
            _range(block["one"]["macs"], operations),
            share(block["half"]["weights"], report["weights"]),
            share(block["half"]["macs"], report["macs"]),
        )
        for block in report["blocks"]
    )
    columns = ("Channels of", "Groups", "Exact", "One: weights", "MACs", "Half: weights", "MACs")
    return Table("blocks", "Channel groups, and what they save", columns, body)


def coupling(report: Report, shown: int) -> Table:
    """What is cut together with the channels of every block."""
    body = tuple((clean(block["name"]), coupled(block, shown)) for block in report["blocks"])
    return Table("coupling", "What is cut with a group", ("Channels of", "Cut with them"), body, words=2)


def coupled(block: Report, shown: int) -> str:
    """The layers and normalisations that lose something with a group, by what they do with its channels."""
    parts = {
        "also made by": [made for made in block["makes"] if made != block["name"]],
        "through": block["carries"],
        "read by": block["reads"],
    }
    said = [f"{what} {shortened(names, shown)}" for what, names in parts.items() if names]
    if block["channels"] > 1:
        said.insert(0, f"{count(block['channels'])} rows each")
    return "; ".join(said) or UNKNOWN


def frozen(report: Report, shown: int) -> Table:
    """What stays whatever a method asks for, and why."""
    body = [
        (f"{_operator(one)} in {shortened(one['places'], shown)}", _why(clean(one["reason"])))
        for one in report["frozen_operators"]
    ]
    fixed: dict[tuple[str, str], list[str]] = {}
    for layer in report["layers"]:
        if stays := staying(report, layer):
            fixed.setdefault(stays, []).append(layer["name"])
    body += [(f"{channels} of {shortened(names, shown)}", why) for (channels, why), names in fixed.items()]
    return Table("frozen", "What is frozen, and why", ("Frozen", "Why"), tuple(body), words=2)


def staying(report: Report, layer: Report) -> tuple[str, str] | None:
    """How many output channels of a layer belong to no group, and why; None where all do."""
    channels, stays = layer["out"], layer["out"] - layer["removable"]
    if not stays:
        return None
    said = f"all {count(channels)} channels" if stays == channels else f"{count(stays)} of {count(channels)} channels"
    if not layer["macs"]:
        return said, "evaluation never reaches this layer"
    if layer is next(last for last in reversed(report["layers"]) if last["macs"]):
        return said, "they are the network's output"
    others = ", or an operator named above" if report["frozen_operators"] else ""
    return said, f"they meet the network's input or output, or channels that its code pads or cuts{others}"


def shortened(names: Sequence[object], shown: int) -> str:
    """The names of a list, of a long one the first few.

    >>> shortened(["a", "b"], 3), shortened(["a", "b", "c", "d", "e"], 3)
    ('a and b', 'a, b, c and 2 more')
    """
    known = [clean(name) for name in names]
    if len(known) <= shown + 1:  # "and 1 more" is no shorter than the name
        return listing(known)
    return f"{', '.join(known[:shown])} and {len(known) - shown} more"


def share(part: float, whole: float) -> str:
    """A part of the whole network.

    >>> share(1, 8), share(1, 10**6), share(0, 8)
    ('12.5 %', '< 0.1 %', '0 %')
    """
    if not part:
        return "0 %"
    return "< 0.1 %" if part < whole / 1000 else percent(part / whole, 1)


def _obstacle(report: Report) -> str:
    found = listing([f"{_operator(one)} ({clean(one['reason'])})" for one in report["frozen_operators"]])
    if found:
        return f"the channels meet {found}, or the network's output"
    if len(report["layers"]) == 1:
        return "the only layer makes the network's output"
    return "every channel meets the network's input or output, or channels that its code pads or cuts"


def _why(reason: str) -> str:
    return REASONS.get(reason, f"{reason}; the channels that meet it are left alone")


def _operator(frozen: Report) -> str:
    return clean(frozen["operator"]).removeprefix("aten.")


def _blocks(report: Report) -> str:
    found = len(report["blocks"])
    return "1 block" if found == 1 else f"{count(found)} blocks"


def _nonzero(part: Report) -> str:
    return "all" if part["nonzero"] == part["weights"] else count(part["nonzero"])


def _range(ends: Sequence[Any], said: Callable[[float | None], str]) -> str:
    least, most = map(said, ends)
    return least if least == most else f"{least} to {most}"
