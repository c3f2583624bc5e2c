"""Fermionic observables: the chiral condensate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["ChiralCondensate"]


class ChiralCondensate(Observable):
    """``chiral_condensate``: Re Tr D^-1 / V of one staggered field (4 tastes in 4d), colour summed.

    Re Tr D^-1 = m Tr (D D^dag)^-1 = 2 m Tr_even (D D^dag)^-1, since the spectra on even and odd
    sites agree; estimated with complex Gaussian sources on the even sites.

    Args:
        lattice: even extents.
        group: gauge group.
        mass: positive bare mass.
        n_sources: stochastic sources a configuration.
        boundary: phase of each direction; antiperiodic in time by default.
        tolerance: relative residual.
        max_iterations: limit a solve.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        n_sources: int = 4,
        boundary: Sequence[int] | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 5000,
    ) -> None:
        if not mass > 0 or n_sources < 1:
            raise InputError(
                f"the condensate needs mass > 0 and n_sources >= 1, got {mass}, {n_sources}"
            )
        self.operator = StaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass, self.n_sources = lattice, float(mass), int(n_sources)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        operator = self.operator.to(field.device)
        matrices = operator.hop_matrices(operator.group.pack(field))
        total = torch.zeros(field.shape[0], dtype=torch.float64, device=field.device)
        for _ in range(self.n_sources):
            xi = operator.gaussian(field.shape[0], rng)
            solution = operator.solve(
                matrices, xi, [self.mass], EVEN, self.tolerance, self.max_iterations
            )
            solution.require_converged("chiral condensate", self.tolerance, self.max_iterations)
            total += (xi * solution.x[0]).sum((0, 1, 2))
        scale = 2 * self.mass / (self.lattice.volume * self.n_sources)
        return {"chiral_condensate": scale * total}
