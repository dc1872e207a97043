"""The table of operator rules: one operator, one rule, duplicates refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """What an operator does to channel ids and known values.

    run: called as run(trace, *args, **kwargs) with a `Tagged` for each tensor; returns `Tagged` or a tuple.
    takes_parameters: gets parameters as they are (with `source`) instead of opened element by element.
    is_view: the result may look into the first operand's memory.
    moves: only moves elements of its first operand, so that it can be replayed on positions.
    """

    run: Callable[..., Any]
    takes_parameters: bool = False
    is_view: bool = False
    moves: bool = False


TABLE: dict[Any, Rule] = {}


def rule(
    *operators: Any, takes_parameters: bool = False, is_view: bool = False, moves: bool = False
) -> Callable[[F], F]:
    """Enter a function as the rule of one or more ATen operators (all overloads, in-place variants too)."""

    def enter(function: F) -> F:
        for operator in operators:
            if operator in TABLE:
                raise ValueError(f"{operator} already has a rule: {TABLE[operator].run.__name__}")
            TABLE[operator] = Rule(function, takes_parameters, is_view, moves)
        return function

    return enter


def functional(target: Any) -> Any:
    """The operator that computes the same without writing in place, or the target itself.

    >>> functional(aten.relu_.default)
    <OpOverload(op='aten.relu', overload='default')>
    """
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return target
    name = target.overloadpacket.__name__
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, target)
