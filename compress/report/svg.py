"""From a painted matplotlib figure to SVG that lives inside a page.

Colours become the page's CSS variables, so that one drawing serves light, dark and print; text stays text;
ids carry the drawing's name, since two drawings of one page would share them; the same drawing gives the same
bytes.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# colours nobody would choose, to be found again in the SVG
INK, MUTED, GRID, DENSE, PRUNED, ZERO, GONE = (f"#01010{digit}" for digit in range(1, 8))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    DENSE: "var(--dense)",
    PRUNED: "var(--pruned)",
    ZERO: "var(--zero)",
    GONE: "var(--gone)",
}
WIDTH_INCHES = 5.2

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compress",
    "svg.id": None,
    "text.parse_math": False,  # a layer may be called $x
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Sketch:
    """A plot before it is painted: in words for who cannot see it, how to paint it, a line below it."""

    name: str
    title: str
    description: str
    height_inches: float
    paint: Callable[["Figure"], None]
    caption: str = ""


def inline(sketch: Sketch) -> str:
    """Paint the sketch and return an ``<svg>`` element with neither scripts, dates nor outside references."""
    import matplotlib
    from matplotlib.figure import Figure

    # a user's own matplotlibrc must not change the page; rc_context may not switch the backend
    defaults = {key: item for key, item in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    settings: Any = {**defaults, **STYLE}
    written = StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # the page's fonts draw the text, so a glyph missing from matplotlib's own is no loss
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH_INCHES, sketch.height_inches), layout="constrained")
        sketch.paint(figure)
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=unsaid)
    return _embed(written.getvalue(), sketch.name)


def _embed(document: str, name: str) -> str:
    body = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", document[document.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"#01010[1-7]", lambda found: VARIABLES[found[0]], body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", body)
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None, "matplotlib writes a viewBox"
    # width and height follow the page, namespaces are the HTML parser's own, the element around is described
    element = f'<svg {box[0]} aria-hidden="true" focusable="false">'
    return re.sub(r"<svg[^>]*>", element, body, count=1).strip()
