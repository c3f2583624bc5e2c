"""Fermionic observables: the source loop of stochastic traces, and the chiral condensate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["ChiralCondensate", "StochasticTraces", "check_solver"]


class StochasticTraces(Observable):
    """Traces of functions of M = D D^dag on the even sites, from complex Gaussian sources there.

    Args:
        lattice: even extents.
        group: gauge group.
        mass: positive bare mass.
        n_sources: stochastic sources a configuration.
        boundary: phase of each direction; antiperiodic in time by default.
        tolerance: relative residual.
        max_iterations: limit a solve.

    Raises:
        InputError: for a mass, number of sources or solver option out of range.
    """

    #: what errors call it
    what: str

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
                f"{self.what}: expected mass > 0 and n_sources >= 1, got {mass}, {n_sources}"
            )
        check_solver(tolerance, max_iterations)
        self.operator = StaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass, self.n_sources = lattice, float(mass), int(n_sources)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def contractions(
        self, field: Tensor, rng: torch.Generator, n_solves: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Estimates of Tr_e M^-1, ..., Tr_e M^-2k by every source, k = ``n_solves`` solves each.

        With y_1 = M^-1 xi and y_j = M^-1 y_{j-1} they are y_{j-1}.y_j and y_j.y_j, y_0 = xi.

        Returns:
            Estimates ``[sources, 2 n_solves, batch]``, and iterations ``[n_solves, batch]`` of all
            sources.

        Raises:
            ConvergenceError: when a solve fails.
        """
        operator = self.operator.to(field.device)
        matrices = operator.hop_matrices(operator.group.pack(field))
        iterations = torch.zeros(n_solves, field.shape[0], dtype=torch.float64, device=field.device)
        rows = []
        for _ in range(self.n_sources):
            y, row = operator.gaussian(field.shape[0], rng), []
            for k in range(n_solves):
                solution = operator.solve(
                    matrices, y, [self.mass], EVEN, self.tolerance, self.max_iterations
                )
                solution.require_converged(self.what, self.tolerance, self.max_iterations)
                iterations[k] += solution.iterations
                before, y = y, solution.x[0]
                row += [_dot(before, y), _dot(y, y)]
            rows.append(torch.stack(row))
        return torch.stack(rows), iterations


class ChiralCondensate(StochasticTraces):
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

    what = "chiral condensate"

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        estimates, _ = self.contractions(field, rng)
        total = torch.zeros_like(estimates[0, 0])
        # source after source: published numbers were summed in this order
        for estimate in estimates[:, 0]:
            total += estimate
        scale = 2 * self.mass / (self.lattice.volume * self.n_sources)
        return {"chiral_condensate": scale * total}


def check_solver(tolerance: float, max_iterations: int) -> None:
    """Refuse options that the solver would refuse only at the first measurement.

    Raises:
        InputError: for a tolerance outside (0, 1) or a limit below 1.
    """
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise InputError(
            f"expected 0 < tolerance < 1 and max_iterations >= 1, got {tolerance}, {max_iterations}"
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Re a^dag b of packed fields, ``[batch]``."""
    return (a * b).sum((0, 1, 2))
