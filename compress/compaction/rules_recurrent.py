"""LSTM, GRU and RNN: unit j is row j of every gate, column j of the recurrent weight and column j of what reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.compaction.analysis import FoldTarget, Use
from compress.compaction.ids import Tagged, any_along, channel_rows
from compress.compaction.rules_norms import from_source
from compress.compaction.rules_parameters import COMPUTED, called_once
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


@rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu, takes_parameters=True)
def recurrent(
    trace: Trace, x: Tagged, states: Tagged | Sequence[Tagged], params: Sequence[Tagged], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool = False,
) -> Any:  # fmt: skip
    """h[t] = gates(x[t] @ weight_ih.T + bias_ih, h[t - 1] @ weight_hh.T + bias_hh), layer upon layer.

    All layers and directions have one number of units, so unit j of one goes with unit j of all others.
    """
    if trace.target._overloadname != "input":
        return trace.unknown(x, states, params, why="packed sequences")
    states = [states] if isinstance(states, Tagged) else states
    if _projected(params):
        return trace.unknown(x, states, params, why="projected outputs")
    return _results(trace, x, states, params, 4 if has_biases else 2, 2 if bidirectional else 1)


@rule(aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell, takes_parameters=True)
def cell(trace: Trace, x: Tagged, states: Tagged | Sequence[Tagged], *weights: Tagged | None) -> Any:
    """One step: h' = gates(x @ weight_ih.T + bias_ih, h @ weight_hh.T + bias_hh)."""
    params = [tagged for tagged in weights if tagged is not None]
    results = _results(trace, x, [states] if isinstance(states, Tagged) else states, params, len(params), 1)
    return results[1:] if isinstance(results, tuple) and len(results) > 2 else results[-1]


def _results(
    trace: Trace, x: Tagged, states: Sequence[Tagged], params: Sequence[Tagged], each: int, directions: int
) -> Any:
    """The sequence of outputs and the last states."""
    x, states = trace.open((x, list(states)))
    if not from_source(*params):
        return trace.unknown(x, states, params, why=COMPUTED)
    if not x.vary(-1) and any(x.vary(axis) for axis in range(x.ids.dim())):
        return trace.unknown(x, states, params, why="mixes channels")
    net = _Net(trace, params, each, directions, steps=x.ids.shape[:-1].numel() // trace.batch)
    sequence, last = net.run(channel_rows(x.value, -1), trace.vector(x, -1), _start_at_zero(net, states))
    output = Tagged(net.units.repeat(directions).expand(trace.shape), sequence.expand(trace.shape))
    cells = torch.stack(last)[:, None] if states[0].ids.dim() == 3 else torch.stack(last)  # with an axis of samples
    final = [Tagged(net.units.expand(state.ids.shape), cells.expand(state.ids.shape)) for state in states]
    return output, *final


def _projected(params: Sequence[Tagged]) -> bool:
    """True if the outputs are a projection of the units (`proj_size`)."""
    hidden, width = params[1].ids.shape
    return hidden % width != 0 or hidden // width not in (1, 3, 4)


def _start_at_zero(net: "_Net", states: Sequence[Tagged]) -> Tensor:
    """Units whose initial states are zero, shape (units,); states with channels are tied, those of the input freeze."""
    start = torch.ones(len(net.units), dtype=torch.bool)
    for state in states:
        zero = (channel_rows(state.value, -1) == 0).all(1)
        if state.vary(-1):
            net.trace.ids.tie(net.trace.vector(state, -1), net.units)
        elif not bool(zero.all()):
            net.trace.freeze_all(state)
            net.trace.ids.freeze(net.units)
        start = start & zero
    return start


@dataclass
class _Net:
    """The layers and directions of one operator.

    params: weight_ih, weight_hh and with `each` 4 bias_ih, bias_hh for each layer and direction.
    """

    trace: Trace
    params: Sequence[Tagged]
    each: int
    directions: int
    steps: int

    def __post_init__(self) -> None:
        self.units = self.trace.slot(str(self.params[1].source), 1)
        self.gates = self.params[1].ids.shape[0] // len(self.units)

    def cells(self) -> Iterator[list[str]]:
        """Names of the parameters of each layer and direction."""
        for start in range(0, len(self.params), self.each):
            yield [str(tagged.source) for tagged in self.params[start : start + self.each]]

    def run(self, maps: Tensor, cols: Tensor, start: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Known values of the outputs' channels and of each cell's last state."""
        last: list[Tensor] = []
        for number, names in enumerate(self.cells()):
            if number and number % self.directions == 0:
                cols = self.units.repeat(self.directions)
                maps = torch.cat(last[-self.directions :])[:, None]
            last.append(self.cell(names, maps, cols, start))
        return torch.cat(last[-self.directions :]), last

    def cell(self, names: list[str], maps: Tensor, cols: Tensor, start: Tensor) -> Tensor:
        """One layer in one direction: tie, record what reads what; 0 for units that stay 0, NaN for others."""
        trace, rows = self.trace, self.units.repeat(self.gates)
        for name in names:
            trace.slot(name, 0, rows)
        own = trace.slot(names[1], 1, self.units)
        inputs, hidden = (trace.tensors[name] for name in names[:2])
        zero = self.still_zero(names, start, any_along(inputs[:, (maps != 0).any(1)] != 0, 1))
        value = torch.where(zero, 0.0, torch.nan).double()
        once = self.each == 4 and trace.calls[names[2]] == 1
        self.record(Use(
            weight=names[0], rows=rows, cols=trace.slot(names[0], 1, cols), values=inputs, maps=maps, padded=False,
            mergeable=called_once(trace, names[0]), fold=FoldTarget(names[2], 1.0) if once else None,
        ))  # fmt: skip
        self.record(Use(
            weight=names[1], rows=rows, cols=own, values=hidden, maps=value[:, None], padded=False, mergeable=False,
            fold=None,
        ))  # fmt: skip
        return value

    def record(self, use: Use) -> None:
        """Note a use that comes once per step."""
        self.trace.add(use)
        use.positions, use.counted = self.steps, False

    def still_zero(self, names: list[str], start: Tensor, moved: Tensor) -> Tensor:
        """Units that start at 0 and never leave it: the row that makes their content only reads zeros.

        That row is gate 2 of an LSTM (g) and of a GRU (n), the only one of an RNN. moved: rows that the input moves.
        """
        count = len(self.units)
        content = slice(-count, None) if self.gates < 4 else slice(2 * count, 3 * count)
        hidden = self.trace.tensors[names[1]][content]
        zero = start & ~moved[content]
        for bias in names[2:]:
            zero = zero & (self.trace.tensors[bias][content] == 0)
        while bool((lost := zero & (hidden[:, ~zero] != 0).any(1)).any()):
            zero = zero & ~lost
        return zero
