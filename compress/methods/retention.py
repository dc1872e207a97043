"""Small-weight retention: magnitude keeps the large weights, an optimiser decides which small ones stay beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Outcome, PruningMethod, State, View
from compress.retention import cem, knapsack, qubo, scores
from compress.retention.objective import Objective
from compress.retention.pool import Pool, places
from compress.retention.search import descend
from compress.splitting import pack, unpack


@dataclass(frozen=True)
class Retention(PruningMethod):
    r"""Keep the largest weights, and beside them the small weights that the loss misses most.

    Of the k units that magnitude would keep, the largest ``(1 - share) k`` stay. The other places go to whichever
    units of the pool C (all that are smaller) make the loss on training images least:

        min L((1_L + m) * w)   over m in {0, 1}^C,  sum m = share k

    Places move between layers where the budget counts weights over all of them (elements, global scope), else inside
    a layer, so that counts and cost are magnitude's to the unit. The weights are not trained.

    Optimisers, with the contributions ``a_ni = sum g_n w`` of unit i to the loss of sample n:

        qubo      swaps that minimise  mean d_n + 1/2 mean d_n^2,  d_n = sum_i a_ni (z_i - p_i)
        knapsack  the same without interaction: the largest  -c_i - (1/2 - p_i) F_ii,  c = mean a, F = mean a^2
        scores    a score per unit learnt through the mask, dL/ds_i = a_i; give the step ``epochs``
        cem       cross-entropy method on how many units every layer and tenth of magnitudes gets; slow
        random    any of the pool: the control that an optimiser has to beat

    qubo and knapsack work in steps. Contributions are taken at the pruned network (p = 1 for kept, about 0 for dropped
    units), where they say what re-adding a dropped unit and dropping a kept one would change; the dense network
    (p = 1 for all) says little about a loss so far away from it, and is asked only when the pruned one and the network
    half way have no answer. Of the swaps proposed, all, the first half, the first quarter... are tried on the loss
    itself. So no optimiser but ``random`` ends above the calibration loss of magnitude.

    Under an N:M pattern the pool is what the pattern leaves by magnitude; under ``drop_points`` the count is
    magnitude's.

    Chung, master's thesis, National Taiwan Normal University 2021, doi 10.6345/NTNU202101425, of which the abstract
    is public: large weights are kept with small ones chosen by an optimisation strategy. The strategies are ours;
    the quadratic one is related to Yu et al., ICML 2022, arXiv:2203.04466.

    Attributes:
        share: fraction of the kept units that the optimiser chooses.
        optimiser: one of the above.
        samples: training images the loss is measured on, held in memory.
        curvature: how many of them second-order terms are estimated from.
        iterations: steps of qubo and knapsack at most, generations of cem.
        candidates: units on each side of a swap that qubo considers in one step.
        seed: of cem and random.
    """

    share: float = 0.5
    optimiser: Literal["qubo", "knapsack", "scores", "cem", "random"] = "qubo"
    samples: int = 2048
    curvature: int = 256
    iterations: int = 20
    candidates: int = 512
    seed: int = 0

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(
                f"retention: share must be in [0, 1], got {self.share:g}; for half of the budget write 0.5"
            )
        if self.optimiser not in _OPTIMISERS:
            raise UsageError(f"retention: no optimiser {self.optimiser!r}; choose from {', '.join(_OPTIMISERS)}")
        if min(self.samples, self.curvature, self.iterations, self.candidates) < 1:
            raise UsageError(f"retention needs samples, curvature, iterations and candidates >= 1; got {self}")

    def check(self, budget: Budget, epochs: int) -> None:
        """Scores are learnt in training."""
        if self.optimiser == "scores" and not epochs:
            raise UsageError(
                'retention: optimiser = "scores" learns in training, and the step has no epoch of it; set epochs = 1 '
                "or more, or choose another optimiser"
            )

    def init(self, view: View, masks: Masks) -> State:
        """Nothing but the masks, and for learnt scores where they start."""
        if self.optimiser != "scores":
            return State(masks)
        pool = Pool.of(view, masks, self.share)
        tensors = pack(pool=vars(pool), place=places(view.units, pool.start.device))
        return State(masks, {"scores": scores.initial(pool).requires_grad_()}, tensors)

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """The weights that the scores select, if there are any."""
        inside = burn(values, state.masks)
        if not state.trainable:
            return inside
        pool, place = Pool(**unpack(state.tensors, "pool")), unpack(state.tensors, "place")
        return scores.gated(inside, state.trainable["scores"], pool, place, training=training)

    def finish(self, view: View, state: State) -> Outcome:
        """The optimiser's selection; as many units as magnitude would keep."""
        pool = Pool.of(view, state.masks, self.share)
        objective = Objective.of(view, state.masks, self.samples, self.curvature)
        return Outcome(objective.kept(_OPTIMISERS[self.optimiser](self, objective, pool, state)))


def _qubo(method: Retention, objective: Objective, pool: Pool, state: State) -> Tensor:
    return descend(objective, pool, qubo.proposing(method.candidates), method.iterations)


def _knapsack(method: Retention, objective: Objective, pool: Pool, state: State) -> Tensor:
    return descend(objective, pool, knapsack.propose, method.iterations)


def _scores(method: Retention, objective: Objective, pool: Pool, state: State) -> Tensor:
    return min(pool.start, pool.fill(state.trainable["scores"].detach()), key=objective.loss)


def _cem(method: Retention, objective: Objective, pool: Pool, state: State) -> Tensor:
    return cem.search(objective, pool, method.iterations, Generator().manual_seed(method.seed))


def _random(method: Retention, objective: Objective, pool: Pool, state: State) -> Tensor:
    drawn = torch.rand(len(pool.start), generator=Generator().manual_seed(method.seed))
    return pool.fill(drawn.to(pool.start.device))


_OPTIMISERS: Mapping[str, Callable[[Retention, Objective, Pool, State], Tensor]] = {
    "qubo": _qubo,
    "knapsack": _knapsack,
    "scores": _scores,
    "cem": _cem,
    "random": _random,
}
