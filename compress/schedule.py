"""Schedules: functions of progress in [0, 1], independent of the length of a run."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).

    >>> [round(cosine(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """From 1 to 0 along a line."""
    return 1.0 - progress


def step(progress: float) -> float:
    """Times 0.1 at one half and again at three quarters (He et al. 2016, the CIFAR schedule).

    >>> [step(p) for p in (0.4, 0.6, 0.8)]
    [1.0, 0.1, 0.01]
    """
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


LEARNING_RATE: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "linear": linear, "step": step}


def learning_rate(name: str, progress: float, warmup: float) -> float:
    """Factor on the learning rate: a linear rise over the first ``warmup`` fraction, then the named schedule."""
    if progress < warmup:
        return progress / warmup
    return LEARNING_RATE[name]((progress - warmup) / (1 - warmup))


def log_quadratic(kept: float, progress: float, start: float = 1.0) -> float:
    """Kept fraction that falls fast, then gently, on a log scale: start^q kept^(1 - q) with q = (1 - progress)^2.

    >>> [round(log_quadratic(0.01, p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.032, 0.01]
    """
    rest = (1 - min(progress, 1.0)) ** 2
    return float(start**rest * kept ** (1 - rest))


def cubic(kept: float, progress: float, start: float = 1.0) -> float:
    """Kept fraction of a sparsity that rises cubically from s_i to s_f: s = s_f + (s_i - s_f) (1 - progress)^3.

    Zhu and Gupta 2017, arXiv:1710.01878, eq. 1; ``start`` is 1 - s_i.

    >>> [round(cubic(0.1, p), 4) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.2125, 0.1]
    """
    return kept + (start - kept) * (1 - min(progress, 1.0)) ** 3
