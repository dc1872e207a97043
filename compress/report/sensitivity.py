"""What ``compress sensitivity`` measured, in words, a table and plots, and on a terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compress.report.console import _print, _table
from compress.report.fields import Report, clean
from compress.report.formats import count, listing, operations, percent, significant
from compress.report.inspection import PIPE_WIDTH, shortened
from compress.report.plots import _height, _named
from compress.report.svg import MUTED, PRUNED, ZERO, Sketch
from compress.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOUN = {"channel": "channels", "element": "weights"}
FIRST = {"channel": "channels of smallest L1 norm", "element": "weights of smallest magnitude"}
SHOWN = 8
"""Names given of a long list of layers; the table has them all."""
COLOUR = {"flat": PRUNED, "between": MUTED, "steep": ZERO}
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Tell the steepest layers apart; the others share a line of their kind."""


def summary(report: Report, console: Console, *, quiet: bool = False) -> None:
    """Print the verdict and, unless `quiet`, the table."""
    _print(console, Text.assemble((title(report), "bold"), f" - {verdict(report)}"))
    if not quiet:
        found = curves(report)
        _table(console, found.columns, found.rows, words=found.words, widest=PIPE_WIDTH)
        console.print()
    for said in slopes(report):
        _print(console, Text(said))


def title(report: Report) -> str:
    """The network and its data."""
    return f"{clean(report['model'])} on {clean(report['data'])}, every layer pruned alone"


def verdict(report: Report) -> str:
    """What was measured, in one sentence."""
    found = len(report["blocks"])
    layers = "1 layer" if found == 1 else f"{count(found)} layers"
    return (
        f"{layers}, {FIRST[report['units']]} first, nothing retrained; held-out accuracy "
        f"{percent(report['accuracy'])} on {count(report['held_out'])} images with nothing removed"
    )


def slopes(report: Report) -> list[str]:
    """Which layers are flat and which are steep."""
    limit = _limit(report)
    flat, steep = (of_slope(report, slope) for slope in ("flat", "steep"))
    return [
        f"Flat, {percent(report['flat_from'], 0)} or more can go within {limit}: {shortened(flat, SHOWN) or 'none'}.",
        f"Steep, less than {percent(report['steep_below'], 0)} can go: {shortened(steep, SHOWN) or 'none'}.",
    ]


def of_slope(report: Report, slope: str) -> list[str]:
    """The layers of a slope: of the flat ones what loses least first, of the others what loses most."""
    found = [block for block in report["blocks"] if block["slope"] == slope]
    ordered = sorted(found, key=lambda block: block["mean_drop_points"], reverse=slope != "flat")
    return [clean(block["name"]) for block in ordered]


def remarks(report: Report) -> list[str]:
    """What a reader must know beside the figures."""
    return [
        "Every layer is pruned with all others whole, so the losses of several layers pruned together are larger, "
        "and retraining wins much of them back: the figures rank layers, they do not predict a pruned network.",
        f"Bears: the largest share measured up to which the layer never costs more than {_limit(report)}. Of "
        f"{count(report['held_out'])} held-out images one is {significant(100 / report['held_out'], 2)} points.",
        "Layers whose channels can only go together are one row, under the name that a budget's keep knows."
        if report["units"] == "channel"
        else "A row is a layer, under the name that a budget's keep knows.",
    ]


def curves(report: Report) -> Table:
    """Accuracy of every layer at every share removed."""
    shares = [percent(point["removed"], 0) for point in report["blocks"][0]["points"]]
    body = tuple(
        (
            clean(block["name"]),
            count(block["units"]),
            *(f"{100 * point['accuracy']:.2f}" for point in block["points"]),
            percent(block["bears"], 0),
            operations(_saved(report, block)),
        )
        for block in report["blocks"]
    )
    columns = ("Removed from", NOUN[report["units"]].capitalize(), *shares, "Bears", "MACs saved")
    return Table("curves", "Accuracy, %, by the share removed", columns, body)


def sketches(report: Report) -> list[Sketch]:
    """The curves, and what every layer bears."""
    return [falling(report), bearing(report)]


def falling(report: Report) -> Sketch:
    """Accuracy against the share removed, one line per layer; the steepest layers by name."""
    steepest = of_slope(report, "steep")[: len(DASHES)]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for block in report["blocks"]:
            name, at = clean(block["name"]), [0.0, *(100 * point["removed"] for point in block["points"])]
            heights = [100 * report["accuracy"], *(100 * point["accuracy"] for point in block["points"])]
            if name in steepest:
                axes.plot(at, heights, color=ZERO, linestyle=DASHES[steepest.index(name)], label=name, zorder=3)
            else:
                axes.plot(at, heights, color=COLOUR[block["slope"]], linewidth=1.0)
        axes.axhline(100 * report["accuracy"] - report["drop_points"], color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"{NOUN[report['units']]} of this layer removed, %")
        axes.set_ylabel("held-out accuracy, %")
        if steepest:
            figure.legend(loc="outside upper left", ncols=2)

    described = "; ".join(
        f"{clean(block['name'])} {percent(block['points'][len(block['points']) // 2]['accuracy'])} with half removed"
        for block in report["blocks"]
    )
    caption = f"Dashed: {_limit(report)} below the whole network. Blue: flat. Orange: steep, the steepest named."
    return Sketch("curves", "Accuracy as a layer loses its units", described, 3.6, paint, caption)


def bearing(report: Report) -> Sketch:
    """The share of every layer that can go within the limit."""
    known = [(clean(block["name"]), 100 * block["bears"], block["slope"]) for block in report["blocks"]]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.barh(range(len(known)), [share for _, share, _ in known], 0.72, color=[COLOUR[s] for _, _, s in known])
        _named(axes, [name for name, _, _ in known], [f"{share:.0f} %" for _, share, _ in known])
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{NOUN[report['units']]} that can go within {_limit(report)}, %")

    described = "; ".join(f"{name} {share:.0f} %" for name, share, _ in known)
    return Sketch("bears", "What a layer bears", described, _height(len(known)), paint)


def headline(report: Report) -> list[tuple[str, str, str]]:
    """The figures on top of the page: what, how much, a remark."""
    flat, steep = (of_slope(report, slope) for slope in ("flat", "steep"))
    return [
        ("Held-out accuracy", percent(report["accuracy"]), "with nothing removed"),
        ("Flat layers", count(len(flat)), listing(flat[:3])),
        ("Steep layers", count(len(steep)), listing(steep[:3])),
    ]


def _limit(report: Report) -> str:
    return f"{report['drop_points']:g} point" + ("s" if report["drop_points"] != 1 else "")


def _saved(report: Report, block: Report) -> int:
    """Multiply-accumulates saved by the share that the layer bears."""
    borne = [point["macs"] for point in block["points"] if point["removed"] <= block["bears"]]
    return int(report["macs"] - borne[-1]) if borne else 0
