"""Growing regularisation: an L2 penalty on the weights that are to go rises until they are all but zero."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.splitting import pack, unpack

Variant = Literal["greg-1", "greg-2"]


@dataclass(frozen=True)
class GReg(PruningMethod):
    r"""Give the network time to do without what will be pruned: its L2 coefficient eta grows step by step.

        loss + eta/2 sum_{picked} ||W||^2

    ``greg-1`` picks the units of smallest L1 norm under the budget at the start; eta rises from 0 to ``ceiling``
    during the fraction ``growth`` of the run and then rests, so that what stays can settle. ``greg-2`` first raises
    eta on *all* units to ``pick_ceiling`` during the fraction ``picking``, which pulls apart weights that the loss
    curves differently, and picks then, by the magnitudes that result; eta of the others drops to 0, and that of the
    picked goes on as in greg-1. The picked are removed at the end.

    eta moves in ``raises`` equal steps of ceiling / raises, one every growth * steps / raises optimizer steps; in a
    run with fewer steps than raises every step takes several.

    A unit's biases and normalisation entries are penalised with its weights: behind a normalisation, a shrinking
    filter alone changes nothing.

    Wang et al., ICLR 2021, arXiv:2012.09243. On CIFAR they raise eta by 1e-4 every 10 steps to 1 (10,000 raises,
    100,000 steps) and let it rest for 10,000, which is a growth of 0.91; on ImageNet every 5 steps and 40,000.
    greg-2 takes 10,000 steps to raise it by 1e-5 each to 1e-2, a picking of 0.08.

    Attributes:
        variant: greg-1 or greg-2.
        ceiling: the coefficient at the end.
        raises: steps that the coefficient takes.
        growth: fraction of the run at which the ceiling is reached.
        picking: greg-2: fraction of the run at which the units are picked.
        pick_ceiling: greg-2: the coefficient on all units by then.
    """

    variant: Variant = "greg-1"
    ceiling: float = 1.0
    raises: int = 10_000
    growth: float = 0.9
    picking: float = 0.1
    pick_ceiling: float = 1e-2

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UsageError(f"greg's variant is {' or '.join(get_args(Variant))}; got {self.variant!r}")
        if not (self.raises >= 1 and 0 < self.pick_ceiling <= self.ceiling and 0 < self.picking < self.growth <= 1):
            raise UsageError(
                f"greg needs raises >= 1, 0 < pick_ceiling <= ceiling and 0 < picking < growth <= 1; got {self}"
            )

    def init(self, view: View, masks: Masks) -> State:
        """Pick the units (greg-1), or start on all of them."""
        state = State(masks=masks, numbers={"coefficient": 0.0, "picked": 0.0})
        if self.variant == "greg-1":
            return self._pick(view, state)
        scores = view.units.scores(view.values)
        nothing = view.units.masks(
            {block: torch.zeros_like(score, dtype=torch.bool) for block, score in scores.items()}
        )
        return replace(state, tensors=pack(kept=nothing))

    def penalty(self, view: View, state: State) -> Tensor:
        """eta/2 sum ||W||^2 over what was picked."""
        kept = unpack(state.tensors, "kept")
        squares = [torch.where(mask, 0.0, view.values[name].float()).square().sum() for name, mask in kept.items()]
        return 0.5 * state.numbers["coefficient"] * torch.stack(squares).sum()

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Raise the coefficient; greg-2 picks when its time has come."""
        if not state.numbers["picked"] and clock.progress >= self.picking:
            state = self._pick(view, state)
        eta = self.coefficient(clock.progress)
        return replace(state, numbers={**state.numbers, "coefficient": eta}, metrics={"coefficient": eta})

    def finish(self, view: View, state: State) -> Outcome:
        """Remove what was picked."""
        picked = state if state.numbers["picked"] else self._pick(view, state)
        return Outcome(unpack(picked.tensors, "kept"))

    def coefficient(self, progress: float) -> float:
        """L2 coefficient in force after a fraction of the run."""
        if self.variant == "greg-1":
            return self._stairs(0.0, self.ceiling, progress / self.growth)
        if progress < self.picking:
            return self._stairs(0.0, self.pick_ceiling, progress / self.picking)
        return self._stairs(self.pick_ceiling, self.ceiling, (progress - self.picking) / (self.growth - self.picking))

    def _stairs(self, low: float, high: float, progress: float) -> float:
        # a billionth more: 0.7 * 10 is below 7 in floating point
        return low + (high - low) * math.floor(self.raises * min(progress, 1.0) * (1 + 1e-9)) / self.raises

    def _pick(self, view: View, state: State) -> State:
        norms = view.units.sums({name: view.values[name].abs() for name in view.prunable})
        kept = view.select(norms, state.masks)
        return replace(state, tensors=pack(kept=kept), numbers={**state.numbers, "picked": 1.0})
