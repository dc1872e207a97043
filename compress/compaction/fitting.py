"""Arguments that hold a number of channels, and what they are in the narrower graph.

One function per kind of operator: it gets the rewriter, the node and its arguments already pointing into the new
graph, and returns them changed. An operator that is not in the table is copied as it is.
"""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from compress.compaction.table import aten
from compress.compaction.trace import concrete

if TYPE_CHECKING:
    from compress.compaction.rewrite import Rewriter

Arguments = tuple[list[Any], dict[str, Any]]

SHAPED = frozenset(
    {
        aten.view,
        aten.reshape,
        aten._unsafe_view,
        aten.expand,
        aten.broadcast_to,
        aten.unflatten,
        aten.view_as,
        aten.reshape_as,
    }
)
"""Movements whose result is the same elements in the shape that is asked for."""


def fit(rewriter: "Rewriter", node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a node in the narrower graph."""
    packet = getattr(node.target, "overloadpacket", node.target)
    arguments = (
        [_portable(rewriter, value) for value in args],
        {key: _portable(rewriter, value) for key, value in kwargs.items()},
    )
    change = TABLE.get(packet)
    new_args, new_kwargs = change(rewriter, node, *arguments) if change is not None else arguments
    return tuple(new_args), new_kwargs


def _portable(rewriter: "Rewriter", value: Any) -> Any:
    """The analysed copy's device and number type stand for those of the model."""
    typical = rewriter.graph.typical
    if typical is not None and isinstance(value, torch.device):
        return rewriter.attribute(f"{typical}.device")
    if typical is not None and isinstance(value, torch.dtype) and value is rewriter.graph.dtype:
        return rewriter.attribute(f"{typical}.dtype")
    return value


def _sizes(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """view, reshape, expand: the sizes of axes that lose channels."""
    where = 2 if node.target is aten.unflatten.int else 1
    if not isinstance(args[where], (list, tuple)):
        return args, kwargs
    full = concrete(node.meta["val"])
    first = args[1] % (len(full) - len(args[2]) + 1) if where == 2 else 0
    new = list(args[where])
    for k, size in enumerate(new):
        before, after = full[first + k], rewriter.lengths(node)[first + k]
        if before == after or size == -1:
            continue
        if isinstance(size, int):
            new[k] = after
        else:  # batch times heads: the same share of it stays whatever the batch is
            times = rewriter.result.call_function(operator.mul, (size, after))
            new[k] = rewriter.result.call_function(operator.floordiv, (times, before))
    args[where] = new
    return args, kwargs


def _layer(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """Convolution and linear: the number of groups, and a bias where folding has created one."""
    weight = node.args[1]
    name = rewriter.graph.leaves.get(weight.name, "") if isinstance(weight, Node) else ""
    path = name.rpartition(".")[0]
    if path in rewriter.groups:
        args, kwargs = _with(node, args, kwargs, "groups", rewriter.groups[path])
    bias = f"{path}.bias".lstrip(".")
    if name and bias in rewriter.biases:
        args, kwargs = _with(node, args, kwargs, "bias", rewriter.attribute(bias))
    return args, kwargs


def _norm_groups(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """Group normalisation: the number of groups in proportion to the channels."""
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = concrete(source.meta["val"])[1], rewriter.lengths(source)[1]
    args[1] = args[1] * after // before
    return args, kwargs


def _normalized_shape(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """Layer normalisation: the lengths of the normalised axes."""
    args[1] = rewriter.lengths(node)[-len(args[1]) :]
    return args, kwargs


def _scale(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """Attention: 1 / sqrt(head dimension) stays what it was."""
    query = node.args[0]
    assert isinstance(query, Node)
    if kwargs.get("scale") is None:
        kwargs["scale"] = concrete(query.meta["val"])[-1] ** -0.5
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if stack and "MultiheadAttention" in str(stack[-1][1]):  # evaluation shows no dropout, the module knows it
        path = stack[-1][0]
        parts = rewriter.attribute(f"{path}.dropout".lstrip(".")), rewriter.attribute(f"{path}.training".lstrip("."))
        args, kwargs = _with(node, args, kwargs, "dropout_p", rewriter.result.call_function(operator.mul, parts))
    return args, kwargs


def _training(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """Dropout and normalisation know whether they train."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    at = next(names.index(name) for name in ("training", "train", "use_input_stats") if name in names)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    if args[at] is False:  # statistics of the batch even in evaluation mode stay so
        args[at] = rewriter.attribute(f"{path}.training".lstrip("."))
    return args, kwargs


def _recurrent(rewriter: "Rewriter", node: Node, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
    """LSTM, GRU, RNN and their cells: initial states of zeros as long as there are hidden units."""
    arguments: Any = node.args
    if isinstance(arguments[2], Node):
        weight = arguments[3]
    else:  # all weights in one list; the first layer's weight_hh
        weight = arguments[2][1]
        args, kwargs = _training(rewriter, node, args, kwargs)
    recurrent = rewriter.graph.leaves.get(weight.name, "")
    units = rewriter.analysis.slots.get((recurrent, 1))
    if units is None or bool(rewriter.alive(units).all()):
        return args, kwargs
    left = int(rewriter.alive(units).sum())

    def fitted(new: Node, old: Node) -> Node:
        if rewriter.analysis.tagged[old].vary(-1):  # one that is trained has been cut already
            return new
        return rewriter.result.call_function(aten.slice.Tensor, (new, -1, 0, left))

    one = isinstance(args[1], Node)
    args[1] = fitted(args[1], arguments[1]) if one else [*map(fitted, args[1], arguments[1])]
    return args, kwargs


def _with(node: Node, args: list[Any], kwargs: dict[str, Any], name: str, value: Any) -> Arguments:
    """Set an argument by its name, wherever it was given."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    at = names.index(name)
    if at < len(args):
        args[at] = value
    else:
        kwargs[name] = value
    return args, kwargs


TABLE: dict[Any, Callable[["Rewriter", Node, list[Any], dict[str, Any]], Arguments]] = {
    **dict.fromkeys((aten.view, aten.reshape, aten._unsafe_view, aten.unflatten), _sizes),
    **dict.fromkeys((aten.expand, aten.broadcast_to), _sizes),
    **dict.fromkeys((aten.linear, aten.conv1d, aten.conv2d, aten.conv3d), _layer),
    **dict.fromkeys((aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d), _layer),
    **dict.fromkeys((aten.batch_norm, aten.instance_norm), _training),
    **dict.fromkeys((aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.native_dropout), _training),
    **dict.fromkeys((aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu), _recurrent),
    **dict.fromkeys((aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell), _recurrent),
    aten.group_norm: _norm_groups,
    **dict.fromkeys((aten.layer_norm, aten.rms_norm), _normalized_shape),
    **dict.fromkeys((aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty), _sizes),
    aten.scaled_dot_product_attention: _scale,
}
"""Operator -> what becomes of its arguments."""
