"""Dynamic network surgery: what a mask drops keeps learning and may return (Guo et al.)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.scoring import left
from compress.splitting import pack, unpack
from compress.units import Keep


@dataclass(frozen=True)
class Surgery(PruningMethod):
    r"""Prune and splice while training: the forward pass uses ``w * mask``, the gradient updates every w.

        mask    0           where  |w| <= (1 - h) t
                1           where  |w| >  (1 + h) t         (splicing)
                as before   between

    with the threshold t of the layer. Masks are revised at a step with probability ``(1 + gamma step)^-power`` until
    ``stop``. A channel is judged by its norm in place of |w|. The answer meets the budget exactly: units that the
    masks dropped rank behind all others. Without a budget, the masks themselves are the answer.

    Guo, Yao and Chen, NIPS 2016, arXiv:1608.04493, eq. 3; hysteresis and probability as in the authors' code.

    Attributes:
        threshold: ``budget``: t is the smallest norm in the layer that the budget would keep now; ``deviation``:
            t = mean + c * standard deviation of the layer's norms at the start.
        c: see there; smaller keeps more.
        updates_per_epoch: how often the budget's threshold is taken anew.
        hysteresis: h.
        gamma: how fast revisions become rare.
        power: exponent of that.
        stop: fraction of the run after which the masks are fixed.
    """

    threshold: Literal["budget", "deviation"] = "budget"
    c: float = 1.0
    updates_per_epoch: int = 10
    hysteresis: float = 0.1
    gamma: float = 1e-4
    power: float = 1.0
    stop: float = 0.75

    @property
    def needs_budget(self) -> bool:
        """Unless the deviation of the norms decides."""
        return self.threshold == "budget"

    def __post_init__(self) -> None:
        if not (0 <= self.hysteresis < 1 and self.gamma >= 0 and self.power >= 0):
            raise UsageError(f"surgery needs hysteresis in [0, 1), gamma >= 0 and power >= 0; got {self}")
        if not (0 < self.stop <= 1 and self.updates_per_epoch >= 1):
            raise UsageError(f"surgery needs stop in (0, 1] and updates_per_epoch >= 1; got {self}")

    def init(self, view: View, masks: Masks) -> State:
        """Nothing is dropped yet."""
        scores = view.units.scores(view.values)
        if self.threshold == "budget":
            limits = _smallest_kept(view, scores, masks)
        else:
            limits = {block: self._deviation(score) for block, score in scores.items()}
        kept = {block: torch.ones_like(score, dtype=torch.bool) for block, score in scores.items()}
        return State(masks=masks, tensors=pack(mask=view.units.masks(kept)), numbers=limits)

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """Masked weights, through which the gradient passes as if there were no mask."""
        masks = unpack(state.tensors, "mask")
        masked = burn(values, masks)
        if training:
            # w + (0 - w) is exactly 0 in floating point
            masked |= {name: values[name] + (masked[name] - values[name]).detach() for name in masks}
        return burn(masked, state.masks)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Drop and splice, at steps drawn at random that become rarer."""
        draw = float(torch.rand(()))
        if clock.progress > self.stop:
            return state
        scores = view.units.scores(view.values)
        if self.threshold == "budget" and clock.due(self.updates_per_epoch):
            state = replace(state, numbers=_smallest_kept(view, scores, state.masks))
        if draw >= (1 + self.gamma * clock.step) ** -self.power:
            return state
        before = left(view.units, unpack(state.tensors, "mask"))
        kept = {block: self._revise(score, before[block], state.numbers[block]) for block, score in scores.items()}
        changed, share = _count({block: kept[block] ^ before[block] for block in kept}), _count(kept)
        metrics = {"kept": share / sum(view.units.blocks.values()), "changed": float(changed)}
        return replace(state, tensors=pack(mask=view.units.masks(kept)), metrics=metrics)

    def finish(self, view: View, state: State) -> Outcome:
        """The masks, or the selection that meets the budget."""
        kept, scores = left(view.units, unpack(state.tensors, "mask")), view.units.scores(view.values)
        # What was dropped ranks below every norm, in the order of the norms.
        ranked = {block: s.where(kept[block], -1 / s.clamp_min(1e-30)) for block, s in scores.items()}
        return Outcome(view.above(ranked, 0.0, state.masks) if view.budget.free else view.select(ranked, state.masks))

    def _revise(self, score: Tensor, before: Tensor, limit: float) -> Tensor:
        """Masks with hysteresis around the threshold."""
        return (score > (1 + self.hysteresis) * limit) | (before & (score > (1 - self.hysteresis) * limit))

    def _deviation(self, score: Tensor) -> float:
        """Mean + c * deviation of what is not zero."""
        some = score[score > 0]
        return max(float(some.mean() + self.c * some.std(correction=0)), 0.0)


def _smallest_kept(view: View, scores: Mapping[str, Tensor], masks: Masks) -> dict[str, float]:
    """Per layer, the smallest norm in the selection that meets the budget."""
    keep = left(view.units, view.select(scores, masks))
    return {block: float(score[keep[block]].min()) for block, score in scores.items()}


def _count(keep: Keep) -> int:
    return sum(int(kept.sum()) for kept in keep.values())
