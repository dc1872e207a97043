"""What is drawn: a function reads the report and returns a sketch, None where there is nothing to show."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from compress.report.fields import Report, number, numbers, rows, text, value
from compress.report.formats import count, ms, percent, size
from compress.report.svg import DENSE, GONE, GRID, INK, MUTED, PRUNED, ZERO, Sketch
from compress.report.words import score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED_LAYERS = 30  # beyond it names would not be readable; the table has them


def sketches(report: Report) -> list[Sketch]:
    """Every plot the report has data for."""
    drawn = (stage_accuracy, history, layer_weights, layer_widths, latency, sizes)
    return [found for draw in drawn if (found := draw(report)) is not None]


def stage_accuracy(report: Report) -> Sketch | None:
    """Held-out accuracy after every stage that has one."""
    found = [(s, number(s, "accuracy")) for s in rows(report, "stages")]
    known = [(text(s, "name"), a, number(s, "sparsity")) for s, a in found if a is not None]
    if len(known) < 2:
        return None
    said = [score(report, a) + (f", {percent(s, 0)} zero" if s else "") for _, a, s in known]
    scale = 1 if value(report, "metric", "higher_is_better") is False else 100

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        at = [scale * a for _, a, _ in known]
        axes.plot(at, range(len(at)), color=GRID, zorder=1)
        axes.plot(at, range(len(at)), "o", color=PRUNED, markersize=7)
        pad = max(0.15 * (max(at) - min(at)), 0.002 * max(map(abs, at)), 1e-9)
        axes.set_xlim(min(at) - pad, max(at) + pad)
        _named(axes, [name for name, _, _ in known], said)
        axes.set_xlabel("held-out accuracy, %" if scale == 100 else text(report, "metric", "name"))

    described = "; ".join(f"{name} {words}" for (name, _, _), words in zip(known, said, strict=True))
    return Sketch("stages", "Accuracy through the stages", described, 0.9 + 0.3 * len(known), paint)


def history(report: Report) -> Sketch | None:
    """Loss, held-out accuracy and sparsity over all epochs of all stages, the stages numbered."""
    epochs = rows(report, "history")
    keys = ("loss", "accuracy", "sparsity")
    panels = [(key, [number(e, key) for e in epochs]) for key in keys]
    panels = [(name, series) for name, series in panels if sum(x is not None for x in series) > 1]
    if not panels:
        return None
    names = [text(epoch, "stage") for epoch in epochs]
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]

    def paint(figure: "Figure") -> None:
        for axes, (name, series) in zip(_column(figure, len(panels)), panels, strict=True):
            for start, end in pairwise([*starts, len(series)]):
                heights = [float("nan") if x is None else x for x in series[start:end]]
                at = range(start + 1, end + 1)
                axes.plot(at, heights, ".-", color=PRUNED, linewidth=1.4, markersize=4)
            axes.set_ylabel(name)
            for start in starts[1:]:
                axes.axvline(start + 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.grid(axis="x", visible=False)
            axes.set_xlim(0.5, len(series) + 0.5)
        for i, start in enumerate(starts, 1):
            figure.axes[0].annotate(
                str(i), (start + 0.5, 1), (3, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8, color=MUTED,
            )  # fmt: skip
        figure.axes[-1].set_xlabel("epoch")

    stages = ", ".join(f"{i} {names[start]}" for i, start in enumerate(starts, 1))
    described = f"{len(epochs)} epochs; stages: {stages}"
    return Sketch(
        "history",
        "Training history",
        described,
        0.6 + 1.25 * len(panels),
        paint,
        f"Accuracy is held-out. Stages: {stages}.",
    )


def layer_weights(report: Report) -> Sketch | None:
    """What became of every layer's weights: nonzero, zero in a dense kernel, removed by compaction."""
    parts = []
    for layer in rows(report, "layers"):
        dense, left, nonzero = (number(layer, key) for key in ("weights_dense", "weights", "nonzero"))
        if dense and left is not None and nonzero is not None:
            shares = (nonzero / dense, (left - nonzero) / dense, (dense - left) / dense)
            parts.append((text(layer, "name"), shares))
    if not parts:
        return None
    kinds = (("nonzero", PRUNED), ("zero, still stored", ZERO), ("removed", GONE))

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        before = [0.0] * len(parts)
        for kind, (label, colour) in enumerate(kinds):
            share = [100 * shares[kind] for _, shares in parts]
            axes.barh(range(len(parts)), share, 0.72, before, color=colour, label=label)
            before = [b + s for b, s in zip(before, share, strict=True)]
        _named(axes, [name for name, _ in parts], [percent(1 - shares[0], 1) for _, shares in parts])
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the layer's dense weights, %; sparsity at the right")
        figure.legend(loc="outside upper left", ncols=3)

    described = "; ".join(
        f"{name} {percent(a, 1)} nonzero, {percent(b, 1)} stored zeros, {percent(c, 1)} removed"
        for name, (a, b, c) in parts
    )
    return Sketch("weights", "What became of the weights", described, _height(len(parts)), paint)


def layer_widths(report: Report) -> Sketch | None:
    """Output channels of every layer before and after compaction."""
    layers = rows(value(report, "compaction") or {}, "layers")
    found = [(text(layer, "name"), number(layer, "out_before"), number(layer, "out_after")) for layer in layers]
    known = [(name, before, after) for name, before, after in found if before and after is not None]
    if not known:
        return None

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        at = range(len(known))
        axes.barh(at, [before for _, before, _ in known], 0.72, color=GONE, label="before")
        axes.barh(at, [after for _, _, after in known], 0.72, color=PRUNED, label="after")
        _named(axes, [name for name, _, _ in known], [f"{count(b)} to {count(a)}" for _, b, a in known])
        axes.set_xlabel("output channels")
        figure.legend(loc="outside upper left", ncols=2)

    described = "; ".join(f"{name} {count(b)} to {count(a)}" for name, b, a in known)
    return Sketch("widths", "Channels before and after compaction", described, _height(len(known)), paint)


def latency(report: Report) -> Sketch | None:
    """The share of runs within each latency, dense and pruned, at three places of measurement at most."""
    places: dict[str, dict[str, list[float]]] = {}
    for m in rows(report, "measurements"):
        model = {"dense.onnx": "dense", "model.onnx": "pruned"}.get(text(m, "artifact"))
        samples = sorted(numbers(m, "samples_ms"))
        if model and samples:
            threads = text(m, "threads")
            where = (text(m, "target"), text(m, "provider"), threads and f"threads: {threads}")
            places.setdefault(", ".join(filter(None, where)), {})[model] = samples
    shown = [(where, both) for where, both in places.items() if len(both) == 2][:3]
    if not shown:
        return None

    def paint(figure: "Figure") -> None:
        for axes, (where, both) in zip(_column(figure, len(shown), share=False), shown, strict=True):
            for model, colour in (("dense", DENSE), ("pruned", PRUNED)):
                axes.ecdf(both[model], color=colour, label=model)
            # a few stragglers of the operating system would otherwise flatten everything else
            axes.set_xlim(0, 1.3 * max(s[int(0.98 * (len(s) - 1))] for s in both.values()))
            axes.set_title(where, fontsize=9, color=MUTED, loc="left")
            axes.set_ylabel("share of runs")
        figure.axes[-1].set_xlabel("latency, ms")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)

    described = "; ".join(
        f"{where}: half of the runs within {ms(both['dense'][len(both['dense']) // 2])} dense, "
        f"{ms(both['pruned'][len(both['pruned']) // 2])} pruned"
        for where, both in shown
    )
    return Sketch("latency", "Latency distribution", described, 0.9 + 1.7 * len(shown), paint)


def sizes(report: Report) -> Sketch | None:
    """Bytes of every form of the model."""
    forms = (
        ("dense.onnx", "dense", "size_bytes", DENSE),
        ("dense.onnx, zipped", "dense", "size_zip_bytes", DENSE),
        ("model.onnx", "pruned", "size_bytes", PRUNED),
        ("model.onnx, zipped", "pruned", "size_zip_bytes", PRUNED),
        ("model.sparse.onnx", "pruned", "size_sparse_bytes", PRUNED),
    )
    found = [(name, number(report, model, key), colour) for name, model, key, colour in forms]
    known = [(name, stored, colour) for name, stored, colour in found if stored is not None]
    if len(known) < 2:
        return None

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        unit = 1e6 if max(stored for _, stored, _ in known) >= 1e6 else 1e3
        colours = [colour for _, _, colour in known]
        axes.barh(range(len(known)), [stored / unit for _, stored, _ in known], 0.6, color=colours)
        _named(axes, [name for name, _, _ in known], [size(stored) for _, stored, _ in known])
        axes.set_xlabel("MB" if unit == 1e6 else "kB")

    described = "; ".join(f"{name} {size(stored)}" for name, stored, _ in known)
    return Sketch("sizes", "Bytes", described, 0.7 + 0.3 * len(known), paint)


def _column(figure: "Figure", n: int, share: bool = True) -> Iterator["Axes"]:
    return iter(figure.subplots(n, 1, sharex=share, squeeze=False)[:, 0])


def _named(axes: "Axes", names: Sequence[str], figures: Sequence[str]) -> None:
    """One line per name from the top, its figure at the right; numbers in place of too many names."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    if len(names) > NAMED_LAYERS:
        axes.set_ylabel("layer, from the input on")
        return
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(names)), list(figures))
    right.tick_params(axis="y", length=0, labelcolor=INK)
    right.spines["right"].set_visible(False)


def _short(name: str) -> str:
    # the end of a layer's dotted name tells it from its neighbours
    return name if len(name) <= 26 else f"...{name[-23:]}"


def _height(layers: int) -> float:
    return 1.0 + (0.27 * layers if layers <= NAMED_LAYERS else 0.06 * min(layers, 120))
