"""Traces of inverse powers of the staggered operator, and what they say about the condensate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import factorial

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.fermion import StochasticTraces
from lattice_lightning.observables.products import (
    distinct_products,
    jackknife_variance,
    leave_one_out,
    set_partitions,
)

__all__ = ["InverseTraces", "condensate_moment"]


class InverseTraces(StochasticTraces):
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
    solves, and with powers beyond 2 ``trace_inverse_iterations_first`` those for y1 alone.

    With ``moments`` = k the same solves also give, products of traces always of different sources,

    * ``condensate_power_{j}``, j from 2 to k: (Tr D^-1 / V)^j;
    * ``condensate_moment_{j}``, j from 1 to k: the j-th derivative of (det D)^N by the mass, over
      (det D)^N and V^j (:func:`condensate_moment`). Averages of these give the cumulants of the
      condensate: susceptibility, skewness, kurtosis;
    * ``condensate_moment_{j}_noise``: the variance of that from the noise of the sources, by the
      jackknife over them (more than j sources); for few sources rather too large.

    Args:
        lattice: even extents.
        group: gauge group.
        mass: positive bare mass.
        powers: different n from 1 to 4; a second solve a source from 3 on.
        n_sources: stochastic sources a configuration.
        boundary: phase of each direction; antiperiodic in time by default.
        tolerance: relative residual.
        max_iterations: limit a solve.
        moments: highest moment of the condensate, 0 (none) to 4.
        n_fields: number N of unrooted staggered fields in the moments.

    Raises:
        InputError: for a mass, powers, sources, moments or fields out of range, and for moments without
            their powers or with fewer sources than factors.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> traces = InverseTraces(lattice, group, mass=0.5, powers=(1, 2))
        >>> sorted(traces.measure(group.cold(lattice, 1), torch.Generator().manual_seed(1)))
        ... # doctest: +NORMALIZE_WHITESPACE
        ['trace_inverse_1', 'trace_inverse_1_noise', 'trace_inverse_2', 'trace_inverse_2_noise',
         'trace_inverse_iterations']
    """

    what = "inverse traces"

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
        moments: int = 0,
        n_fields: int = 1,
    ) -> None:
        super().__init__(lattice, group, mass, n_sources, boundary, tolerance, max_iterations)
        powers = list(powers)
        if not powers or len(set(powers)) < len(powers) or any(n not in (1, 2, 3, 4) for n in powers):
            raise InputError(f"powers must be one or more different ones of 1, 2, 3, 4, got {powers}")
        self.powers = tuple(int(n) for n in powers)
        if moments not in range(5) or n_fields not in range(1, 1000):
            raise InputError(
                "expected moments from 0 to 4 and a whole number of unrooted fields, "
                f"got moments={moments}, n_fields={n_fields}"
            )
        needed = list(range(1, moments + 1))
        if not set(needed) <= set(self.powers) or n_sources < moments:
            raise InputError(
                f"moments={moments} needs powers {needed} and n_sources >= {moments}, "
                f"got powers {powers} and n_sources={n_sources}"
            )
        self.moments, self.n_fields = int(moments), int(n_fields)

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        estimates, iterations = self.estimates(field, rng)
        result = {}
        for n, scatter in estimates.items():
            result[f"trace_inverse_{n}"] = scatter.mean(0)
            if self.n_sources > 1:
                result[f"trace_inverse_{n}_noise"] = scatter.var(0) / self.n_sources
        result["trace_inverse_iterations"] = iterations.sum(0)
        if len(iterations) > 1:
            result["trace_inverse_iterations_first"] = iterations[0]
        for j in range(2, self.moments + 1):
            result[f"condensate_power_{j}"] = distinct_products([estimates[1]] * j)
        for j in range(1, self.moments + 1):
            name, options = f"condensate_moment_{j}", (self.lattice.volume, self.n_fields)
            result[name] = condensate_moment(j, estimates, *options)
            if self.n_sources > j:
                others = {n: leave_one_out(scatter) for n, scatter in estimates.items()}
                result[f"{name}_noise"] = jackknife_variance(condensate_moment(j, others, *options))
        return result

    def estimates(self, field: Tensor, rng: torch.Generator) -> tuple[dict[int, Tensor], Tensor]:
        """Re Tr D^-n / V of each power by source ``[sources, batch]``, and iterations of each solve."""
        t, iterations = self.contractions(field, rng, 2 if max(self.powers) > 2 else 1)
        m = self.mass
        traces = {1: m * t[:, 0], 2: 2 * m**2 * t[:, 1] - t[:, 0]}
        if max(self.powers) > 2:
            traces[3] = 4 * m**3 * t[:, 2] - 3 * m * t[:, 1]
            traces[4] = 8 * m**4 * t[:, 3] - 8 * m**2 * t[:, 2] + t[:, 1]
        return {n: 2 / self.lattice.volume * traces[n] for n in self.powers}, iterations


def condensate_moment(
    order: int, traces: Mapping[int, Tensor], volume: int, n_fields: int = 1
) -> Tensor:
    """M_k / V^k with M_k = (det D)^-N d^k (det D)^N / dm^k, k = ``order`` and N = ``n_fields``.

    With Q_n = N (-1)^{n-1} (n-1)! Tr D^-n, the n-th derivative of N Tr ln D, it is the complete Bell
    polynomial of Faa di Bruno, a sum over the set partitions of k elements:

        M_1 = Q_1, M_2 = Q_1^2 + Q_2, M_3 = Q_1^3 + 3 Q_1 Q_2 + Q_3,
        M_4 = Q_1^4 + 6 Q_1^2 Q_2 + 3 Q_2^2 + 4 Q_1 Q_3 + Q_4.

    Products come from different sources, so that the result is unbiased; its ensemble average is the
    k-th derivative of the partition function by the mass, over it and V^k.

    Args:
        order: from 1 to 4.
        traces: Tr D^-n / V of every source ``[sources, ...]`` for n from 1 to ``order``.
        volume: number of sites V.
        n_fields: number of unrooted staggered fields.

    Returns:
        ``[...]``.

    Raises:
        InputError: for more factors than sources.
    """
    cumulants = {
        n: n_fields * (-1) ** (n - 1) * factorial(n - 1) * traces[n] for n in range(1, order + 1)
    }
    shapes = Counter(tuple(sorted(map(len, blocks))) for blocks in set_partitions(order))
    total = torch.zeros_like(traces[1][0])
    for sizes, count in shapes.items():
        # each of these has one factor 1/V already
        scale = count / volume ** (order - len(sizes))
        total = total + scale * distinct_products([cumulants[n] for n in sizes])
    return total
