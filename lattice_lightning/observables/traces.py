"""Traces of inverse powers of the staggered operator."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["InverseTraces"]


class InverseTraces(Observable):
    """``trace_inverse_{n}``: Re Tr D^-n / V of one staggered field, n from 1 to 4, colour summed.

    D = m + K has the eigenvalues m +- i lambda; with M = D D^dag on the even sites, whose eigenvalues
    are m^2 + lambda^2, and Tr_e the trace there,

        Tr D^-1 = 2 Tr_e [m M^-1]
        Tr D^-2 = 2 Tr_e [2 m^2 M^-2 - M^-1]
        Tr D^-3 = 2 Tr_e [4 m^3 M^-3 - 3 m M^-2]
        Tr D^-4 = 2 Tr_e [8 m^4 M^-4 - 8 m^2 M^-3 + M^-2].

    The powers of M^-1 come from complex Gaussian sources xi on the even sites, y1 = M^-1 xi and
    y2 = M^-1 y1: xi.y1, y1.y1, y1.y2 and y2.y2. All powers share the sources, so that their errors
    are correlated. ``trace_inverse_{n}_noise`` is the variance of the mean over the sources, from
    their scatter (two sources or more); ``trace_inverse_iterations`` counts the iterations of all
    solves.

    Args:
        lattice: even extents.
        group: gauge group.
        mass: positive bare mass.
        powers: different n from 1 to 4; a second solve a source from 3 on.
        n_sources: stochastic sources a configuration.
        boundary: phase of each direction; antiperiodic in time by default.
        tolerance: relative residual.
        max_iterations: limit a solve.

    Raises:
        InputError: for a mass, powers or number of sources out of range.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> traces = InverseTraces(lattice, group, mass=0.5, powers=(1, 2))
        >>> sorted(traces.measure(group.cold(lattice, 1), torch.Generator().manual_seed(1)))
        ... # doctest: +NORMALIZE_WHITESPACE
        ['trace_inverse_1', 'trace_inverse_1_noise', 'trace_inverse_2', 'trace_inverse_2_noise',
         'trace_inverse_iterations']
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        powers: Sequence[int] = (1, 2, 3, 4),
        n_sources: int = 4,
        boundary: Sequence[int] | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 5000,
    ) -> None:
        if not mass > 0 or n_sources < 1:
            raise InputError(
                f"the inverse traces need mass > 0 and n_sources >= 1, got {mass}, {n_sources}"
            )
        powers = list(powers)
        if not powers or len(set(powers)) < len(powers) or any(n not in (1, 2, 3, 4) for n in powers):
            raise InputError(f"powers must be one or more different ones of 1, 2, 3, 4, got {powers}")
        self.operator = StaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass, self.n_sources = lattice, float(mass), int(n_sources)
        self.powers = tuple(int(n) for n in powers)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        operator, m = self.operator.to(field.device), self.mass
        matrices = operator.hop_matrices(operator.group.pack(field))
        iterations = torch.zeros(field.shape[0], dtype=torch.float64, device=field.device)

        def solve(b: Tensor) -> Tensor:
            solution = operator.solve(matrices, b, [m], EVEN, self.tolerance, self.max_iterations)
            solution.require_converged("inverse traces", self.tolerance, self.max_iterations)
            iterations.add_(solution.iterations)
            return solution.x[0]

        estimates: dict[int, list[Tensor]] = {n: [] for n in self.powers}
        for _ in range(self.n_sources):
            xi = operator.gaussian(field.shape[0], rng)
            y1 = solve(xi)
            t1, t2 = _dot(xi, y1), _dot(y1, y1)
            traces = {1: m * t1, 2: 2 * m**2 * t2 - t1}
            if max(self.powers) > 2:
                y2 = solve(y1)
                t3, t4 = _dot(y1, y2), _dot(y2, y2)
                traces[3] = 4 * m**3 * t3 - 3 * m * t2
                traces[4] = 8 * m**4 * t4 - 8 * m**2 * t3 + t2
            for n in self.powers:
                estimates[n].append(2 / self.lattice.volume * traces[n])

        result = {}
        for n in self.powers:
            scatter = torch.stack(estimates[n])
            result[f"trace_inverse_{n}"] = scatter.mean(0)
            if self.n_sources > 1:
                result[f"trace_inverse_{n}_noise"] = scatter.var(0) / self.n_sources
        result["trace_inverse_iterations"] = iterations
        return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Re a^dag b of packed fields, ``[batch]``."""
    return (a * b).sum((0, 1, 2))
