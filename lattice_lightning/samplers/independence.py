"""Independence Metropolis: draws that do not know the chain, made exact by their weights."""

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.samplers.kernel import Kernel, State, Trajectory
from lattice_lightning.samplers.proposal import WeightedProposal

__all__ = ["IndependenceMetropolis"]

#: draws of a start for each chain before the proposal is given up
MAX_DRAWS = 100


class IndependenceMetropolis(Kernel):
    """Proposes x' ~ q and accepts with min(1, w(x') / w(x)), w = exp(-S) / q (1904.12072).

    The log weight of the chain's field is kept in ``State.cache["log_weight"]`` and never computed
    again, so that a proposal on an extended space (annealing, stochastic flows), whose weight the
    field alone does not determine, is exact too. ``delta_H`` is log w(x) - log w(x'); a proposal
    whose weight is not finite is rejected and counted.

    Args:
        proposal: draws fields with log weights for its target.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.samplers import AnnealedImportanceSampling
        >>> from lattice_lightning.models import GaussianPrior
        >>> lattice = Lattice((4, 4))
        >>> target = Phi4(lattice, m2=1.0, lam=0.5)
        >>> kernel = IndependenceMetropolis(AnnealedImportanceSampling(GaussianPrior(lattice), target, 4))
        >>> rng = torch.Generator().manual_seed(1)
        >>> state = kernel.init(torch.zeros(8, 4, 4, dtype=torch.float64), rng)
        >>> state, info = kernel.step(rng, state)
        >>> state.cache["log_weight"].shape
        torch.Size([8])
    """

    name = "independence"

    def __init__(self, proposal: WeightedProposal) -> None:
        self.proposal, self.target = proposal, proposal.target
        self.lattice, self.space = proposal.lattice, proposal.space

    def init(self, field: Tensor, rng: torch.Generator) -> State:
        """Chains at a field, or at fresh draws where the proposal cannot weigh a given field.

        Raises:
            InputError: when the field has another layout or no finite weight, or when the proposal
                draws none.
        """
        self.check_start(field)
        log_weight = self.proposal.log_weight(field)
        if log_weight is None:
            return self._drawn(len(field), rng)
        finite = torch.isfinite(log_weight)
        if not bool(finite.all()):
            chain = int((~finite).nonzero()[0])
            raise InputError(
                f"chain {chain} cannot start at its field: the proposal gives it the log weight "
                f"{float(log_weight[chain])}, so that every later step would compare with nothing; start "
                "from proposal.sample, or check the flow's inverse there"
            )
        return State(field.clone(), {"log_weight": log_weight})

    def _drawn(self, n: int, rng: torch.Generator) -> State:
        field, log_weight = self.proposal.sample(n, rng)
        for _ in range(MAX_DRAWS):
            bad = ~torch.isfinite(log_weight)
            if not bool(bad.any()):
                return State(field, {"log_weight": log_weight})
            field, log_weight = field.clone(), log_weight.clone()
            field[bad], log_weight[bad] = self.proposal.sample(int(bad.sum()), rng)
        raise InputError(
            f"{int(bad.sum())} of {n} chains found no start of finite weight in {MAX_DRAWS} draws of the "
            "proposal; train it further, or look for nan in its parameters"
        )

    def at(self, field: Tensor) -> State:
        """The state at a given field; a weight that is not finite makes its chain reject and count.

        Raises:
            InputError: where a field alone does not determine the weight.
        """
        log_weight = self.proposal.log_weight(field)
        if log_weight is None:
            raise InputError(
                f"{type(self.proposal).__name__} cannot weigh a field that it did not draw, so it cannot "
                "alternate with a kernel that moves the field; run it alone"
            )
        return State(field, {"log_weight": log_weight})

    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """A fresh draw for every chain."""
        start, before = state.field, state.cache["log_weight"]
        end, after = self.proposal.sample(len(start), rng)
        return Trajectory(
            start, end, {}, self.target.value(start, {}), self.target.value(end, {}), before - after,
            cache_start={"log_weight": before}, cache_end={"log_weight": after},
        )
