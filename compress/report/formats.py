"""How a number is written for a person: the one place for percent, bytes, milliseconds and ratios.

Every function takes None, the unknown, and answers with a dash.
"""

import math
from collections.abc import Sequence

UNKNOWN = "\u2013"  # an en dash
TIMES = "\u00d7"


def significant(x: float | None, digits: int = 3) -> str:
    """`digits` significant figures, thousands separated, no exponent between 1e-4 and 1e15.

    >>> significant(0.14234), significant(9.999), significant(1234.5), significant(0)
    ('0.142', '10.0', '1,230', '0')
    """
    if x is None:
        return UNKNOWN
    rounded = float(f"{x:.{digits}g}")
    if rounded == 0:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    if not -5 < exponent < 15:
        return scientific(x)
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}"


def scientific(x: float | None) -> str:
    """Two figures and an exponent, for errors and tolerances.

    >>> scientific(3.2e-13), scientific(0.0)
    ('3.2e-13', '0')
    """
    if x is None:
        return UNKNOWN
    return "0" if x == 0 else f"{x:.1e}"


def count(n: float | None) -> str:
    """A whole number, thousands separated.

    >>> count(430500), count(None)
    ('430,500', '–')
    """
    return UNKNOWN if n is None else f"{n:,.0f}"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as percent.

    >>> percent(0.9898), percent(0.5, 0)
    ('98.98 %', '50 %')
    """
    return UNKNOWN if fraction is None else f"{100 * fraction:.{decimals}f} %"


def points(fraction: float | None) -> str:
    """A difference of two fractions, in percentage points.

    >>> points(0.0023)
    '0.23 points'
    """
    return UNKNOWN if fraction is None else f"{100 * fraction:.2f} points"


def ms(milliseconds: float | None) -> str:
    """Milliseconds to three figures.

    >>> ms(0.1424), ms(12)
    ('0.142 ms', '12.0 ms')
    """
    return UNKNOWN if milliseconds is None else f"{significant(milliseconds)} ms"


def ratio(x: float | None) -> str:
    """How many times, to three figures.

    >>> ratio(60), ratio(2.334)
    ('60.0×', '2.33×')
    """
    return UNKNOWN if x is None else f"{significant(x)}{TIMES}"


def size(n_bytes: float | None) -> str:
    """Bytes; kB, MB and GB are powers of 1000.

    >>> size(812), size(152_400), size(1_727_000), size(999_990)
    ('812 B', '152 kB', '1.73 MB', '1.00 MB')
    """
    return _scaled(n_bytes, (" B", " kB", " MB", " GB", " TB"))


def operations(n: float | None) -> str:
    """A number of multiply-accumulates: thousand, million, billion (1e9).

    >>> operations(2_293_000), operations(189_500), operations(640)
    ('2.29 M', '190 K', '640')
    """
    return _scaled(n, ("", " K", " M", " G", " T"))


def seconds(s: float | None) -> str:
    """A duration.

    >>> seconds(0.0421), seconds(8.24), seconds(125), seconds(7325)
    ('42 ms', '8.2 s', '2 min 05 s', '2 h 02 min')
    """
    if s is None:
        return UNKNOWN
    if s < 1:
        return f"{1000 * s:.0f} ms"
    if s < 60:
        return f"{s:.1f} s"
    if s < 3600:
        return f"{int(s) // 60} min {int(s) % 60:02d} s"
    return f"{int(s) // 3600} h {int(s) % 3600 // 60:02d} min"


def span(low: float | None, high: float | None) -> str:
    """An interval of ratios.

    >>> span(2.21, 2.452)
    '2.21 to 2.45×'
    """
    return UNKNOWN if low is None or high is None else f"{significant(low)} to {ratio(high)}"


def change(before: float | None, after: float | None) -> str:
    """How much less or more of something is there after.

    >>> change(200, 50), change(100, 102), change(100, 100)
    ('75.0 % less', '2.0 % more', 'unchanged')
    """
    if not before or after is None:
        return UNKNOWN
    if before == after:
        return "unchanged"
    return f"{100 * abs(1 - after / before):.1f} % {'less' if after < before else 'more'}"


def listing(items: Sequence[str]) -> str:
    """Items as a sentence names them.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _scaled(n: float | None, units: Sequence[str]) -> str:
    if n is None:
        return UNKNOWN
    if abs(n) < 1000:
        return f"{n:,.0f}{units[0]}"
    power = 0
    # compared after rounding: 999,990 is 1.00 M, not 1000 K
    while power < len(units) - 1 and float(f"{abs(n):.3g}") >= 1000:
        n, power = n / 1000, power + 1
    return significant(n) + units[power]
