"""From a decision to a narrower model that runs: with its own code where that follows, else with a rewritten one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.compaction.analysis import Analysis
from compress.compaction.forward import Forward, install
from compress.compaction.graph import Graph, analyse, load, values
from compress.compaction.inputs import Example
from compress.compaction.narrow import Plan, narrowed
from compress.compaction.rewrite import NotABlock, Rewriter
from compress.compaction.verify import NothingShown
from compress.errors import CompactionError, first_line

# results that turn out to be no block are made one, and that may make others so; seen: 2
_MOST_ROUNDS = 10


@dataclass(frozen=True)
class Decision:
    """What goes: whether each id lives, and the plan that follows from it."""

    alive: Callable[[Tensor], Tensor]
    plan: Plan


class Decide(Protocol):
    """How a decision is made from an analysis; it is asked again for the rewritten graph."""

    def __call__(self, analysis: Analysis) -> Decision: ...


class Prove(Protocol):
    """Compares a narrower model with the original; returns the error or raises CompactionError."""

    def __call__(self, narrow: nn.Module) -> float: ...


@dataclass(frozen=True)
class Subject:
    """The reference copy that is analysed, its graph and the example it runs on.

    patterns: the given model's own tensors, where they are on the CPU.
    """

    model: nn.Module
    example: Example
    graph: Graph
    patterns: Mapping[str, Tensor]

    def analyse(self, graph: Graph, blocks: frozenset[str] = frozenset()) -> Analysis:
        """What the graph makes of the reference's weights."""
        return analyse(graph, values(self.model), patterns=self.patterns, blocks=blocks)


@dataclass(frozen=True)
class Attempt:
    """A plan with its proof.

    error: what the proof measured. forward: the rewritten forward pass, if the model's own code does not follow.
    """

    plan: Plan
    error: float
    frozen_operators: tuple[str, ...]
    forward: Forward | None = field(default=None)


def carry_out(subject: Subject, decide: Decide, prove: Prove) -> Attempt:
    """Narrow a copy of the reference and prove it, first with the model's own code, then with a rewritten one.

    Raises:
        CompactionError: neither could be proved.
    """
    analysis = subject.analyse(subject.graph)
    plan = decide(analysis).plan
    if not plan.kept:  # the same model, also where a constant output would prove nothing
        return Attempt(plan, 0.0, analysis.frozen_operators)
    narrow = narrowed(subject.model, plan)[0]
    try:
        error = prove(narrow)
    except NothingShown:
        raise
    except CompactionError as own:
        try:
            refuse_hidden_parts(subject)
            return rewritten(subject, decide, prove)
        except NothingShown:
            raise
        except CompactionError as cause:
            raise CompactionError(f"{cause} (with the forward pass rewritten; with the model's own, {own})") from cause
    check_training(subject.model, narrow, subject.example)
    return Attempt(plan, error, analysis.frozen_operators)


def rewritten(subject: Subject, decide: Decide, prove: Prove) -> Attempt:
    """Narrow and prove with a rewritten forward pass, for any batch size where the model allows that."""
    try:
        graph = load(subject.model, subject.example, any_batch=True)
    except CompactionError:
        graph = subject.graph
    taken = frozenset(name for name, _ in subject.model.named_buffers())
    blocks: frozenset[str] = frozenset()
    for _ in range(_MOST_ROUNDS):
        analysis = subject.analyse(graph, blocks)
        decision = decide(analysis)
        if not decision.plan.kept:
            return Attempt(decision.plan, 0.0, analysis.frozen_operators)
        plan = decision.plan
        created = frozenset(plan.added) - set(values(subject.model))
        rewriter = Rewriter(graph, analysis, decision.alive, plan.groups, created, taken)
        try:
            inputs = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in subject.example.leaves)
            forward = Forward(rewriter.run(), rewriter.constants, graph.result, inputs)
        except NotABlock as refusal:
            if refusal.nodes <= blocks:
                break
            blocks |= refusal.nodes
            continue
        narrow = narrowed(subject.model, decision.plan)[0]
        install(narrow, forward)
        error = prove(narrow)
        return Attempt(decision.plan, error, analysis.frozen_operators, forward)
    raise CompactionError(f"these results cannot be cut: {', '.join(sorted(blocks))}")


def check_training(reference: nn.Module, narrow: nn.Module, example: Example) -> None:
    """The narrowed model must still run in training mode if the original does (auxiliary heads)."""
    batch = example.repeated(2)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            _train_once(reference, batch)
        except Exception:  # the user's own code; what did not train before need not train now
            return
        try:
            _train_once(narrow, batch)
        except Exception as cause:
            raise CompactionError(
                f"the narrowed model runs in evaluation but not in training mode ({first_line(cause)}): a part "
                "that only training reaches, such as an auxiliary head, reads removed channels; take it out first"
            ) from cause


def refuse_hidden_parts(subject: Subject) -> None:
    """A rewritten forward pass knows what evaluation does; parameters that only training reads would be lost."""
    idle = [name for name, calls in subject.graph.calls.items() if not calls]
    parameters = {name: p for name, p in subject.model.named_parameters() if name in idle and p.requires_grad}
    if not parameters:
        return
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            result = _train_once(subject.model, subject.example.repeated(2))
            total = sum(leaf.sum() for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad)
            found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)  # type: ignore[arg-type]
        except Exception:  # the user's own code; what cannot be trained loses no training-only part
            return
    read = [name for name, gradient in zip(parameters, found, strict=True) if gradient is not None]
    if read:
        raise CompactionError(
            f"{read[0].rpartition('.')[0] or read[0]} is read only in training mode (an auxiliary head?), and the "
            "forward pass must be rewritten as evaluation runs it; take that part out first"
        )


def _train_once(model: nn.Module, batch: Example) -> object:
    """The results of one forward pass in training mode; modes and buffers are put back."""
    modes = {module: module.training for module in model.modules()}
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    own = batch.map(Tensor.clone)
    try:
        return model.train()(*own.args, **own.kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(saved[name])
