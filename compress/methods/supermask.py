"""Supermask: the weights stay as they are, and gradient descent searches the mask (Zhou et al., Ramanujan et al.)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.splitting import pack, pruned, unpack


@dataclass(frozen=True)
class Supermask(PruningMethod):
    r"""Train a score of every weight instead of the weight; the forward pass uses those with the largest scores.

        forward     w * m,  m = 1 where the score is among the best that the budget allows
        gradient    dL/ds = dL/d(w m) * w,  as if m were s (straight through)

    A channel is scored by the mean of its entries' scores. Scores start at |w| over its mean in the network, so the
    search starts from magnitude pruning. With ``train.epochs = 0`` the network was never trained, and with
    ``finetune.epochs = 0`` it never will be: the mask alone is what was learned.

    Zhou et al., NeurIPS 2019, arXiv:1905.01067 (masks drawn at random from trained probabilities); the best-k form
    with a straight-through gradient: Ramanujan et al., CVPR 2020, arXiv:1911.13299.

    Attributes:
        updates_per_epoch: how often the mask follows the scores; the papers' is every step.
    """

    trains: ClassVar[bool] = False

    updates_per_epoch: int = 50

    def __post_init__(self) -> None:
        if self.updates_per_epoch < 1:
            raise UsageError(f"supermask needs updates_per_epoch >= 1, got {self.updates_per_epoch}")

    def init(self, view: View, masks: Masks) -> State:
        """Scores of about 1, in the order of the magnitudes."""
        sizes = {name: value.abs() for name, value in pruned(view).items()}
        mean = torch.cat([size.flatten() for size in sizes.values()]).mean()
        scores = {name: (size / mean).requires_grad_() for name, size in sizes.items()}
        return State(masks=masks, trainable=scores, tensors=pack(mask=self._best(view, scores, masks)))

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """Masked weights, whose gradient reaches the scores."""
        chosen = unpack(state.tensors, "mask")
        if not training:
            return burn(values, chosen)
        # m + (s - s): exactly m, with the slope of s
        gates = {name: chosen[name] + (score - score.detach()) for name, score in state.trainable.items()}
        return burn({**values, **{name: values[name] * gate for name, gate in gates.items()}}, state.masks)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Choose again at even moments of every epoch."""
        if not clock.due(self.updates_per_epoch):
            return state
        before, now = unpack(state.tensors, "mask"), self._best(view, state.trainable, state.masks)
        changed = sum(int((now[name] ^ before[name]).sum()) for name in now)
        return replace(state, tensors=pack(mask=now), metrics={"changed": float(changed)})

    def finish(self, view: View, state: State) -> Outcome:
        """The best-scored within the budget."""
        return Outcome(self._best(view, state.trainable, state.masks))

    def _best(self, view: View, scores: Values, masks: Masks) -> Masks:
        counts = view.units.sums({name: torch.ones_like(score) for name, score in scores.items()})
        totals = view.units.sums(scores)
        return view.select({block: total / counts[block] for block, total in totals.items()}, masks)
