"""Which rule an operator follows. Importing the families here is what fills the table."""

from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.compaction import (
    rules_attention,
    rules_creation,
    rules_movement,
    rules_norms,
    rules_parameters,
    rules_recurrent,
    rules_spatial,
)
from compress.compaction.ids import Tagged, unlabelled
from compress.compaction.rules_pointwise import operand, pointwise
from compress.compaction.table import TABLE, Rule, aten, functional
from compress.compaction.trace import Trace

__all__ = [
    "find_rule", "rules_attention", "rules_creation", "rules_movement", "rules_norms", "rules_parameters",
    "rules_recurrent", "rules_spatial",
]  # fmt: skip

UNMARKED = frozenset(
    {
        aten.absolute, aten.arccos, aten.arccosh, aten.arcsin, aten.arcsinh, aten.arctan, aten.arctan2, aten.arctanh,
        aten.divide, aten.fix, aten.floor_divide, aten.greater, aten.greater_equal, aten.less, aten.less_equal,
        aten.log_sigmoid, aten.masked_fill, aten.multiply, aten.negative, aten.not_equal, aten.rsub, aten.special_expit,
        aten.subtract, aten.true_divide, aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf,
    }
)  # fmt: skip
"""Element-wise operators that torch does not tag as such: second names and mixtures with numbers."""


def find_rule(target: Any) -> Rule:
    """The rule of an operator: its own, the one of all element-wise operators, or freeze and name it."""
    operator = functional(target)
    own = TABLE.get(getattr(operator, "overloadpacket", operator))
    if own is not None:
        return own
    tags = operator.tags if isinstance(operator, OpOverload) else []
    if torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags:
        return Rule(pointwise)
    if {operator, getattr(operator, "overloadpacket", operator)} & UNMARKED:
        return Rule(pointwise)
    return Rule(without_rule)


def without_rule(trace: Trace, *args: Any, **kwargs: Any) -> Any:
    """Nothing is guessed: what it touches is frozen. An operator on plain constants is simply executed."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tagged)]
    schema = getattr(trace.target, "_schema", None)
    pure = schema is not None and not schema.is_mutable
    random = torch.Tag.nondeterministic_seeded in getattr(trace.target, "tags", [torch.Tag.nondeterministic_seeded])
    plain = all(tagged.known and not bool(tagged.ids.any()) for tagged in tensors)
    if plain and pure and not random and isinstance(trace.node.meta.get("val"), torch.Tensor):
        args, kwargs = tree_map_only(Tagged, lambda tagged: operand(tagged).expand(tagged.ids.shape), (args, kwargs))
        return unlabelled(trace.shape, trace.target(*args, **kwargs))
    return trace.unknown(args, kwargs)
