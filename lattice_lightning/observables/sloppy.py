"""Many sources on one configuration, each solved exactly and sloppily: what AMA (1208.4349) is made of."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.fermions.staggered import HopMatrices
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable
from lattice_lightning.observables.mesons import point_correlators, spread_points

__all__ = ["SloppySources", "noise_traces"]

POINTS, NOISE = "points", "noise"
TRACE = "trace_inverse_1"
PICK = "correction_source"


class SloppySources(Observable):
    """Pion correlators from points and Re Tr D^-1 / V from noise, source by source, at several tolerances.

    Level 0 is exact, level k >= 1 stops at ``tolerances[k - 1]``; conjugate gradients start from zero,
    so that a sloppy solution is a function of source and configuration alone, the same function at
    every point of the lattice. ``{quantity}_l{level}_s{source}`` are the values, normalised as those of
    :class:`StaggeredMesons` and :class:`InverseTraces`; ``{points|noise}_iterations_l{level}_s{source}``
    their iterations. The points are a fixed pattern with a random origin (all chains share it), the
    noise is complex Gaussian on the even sites; every level sees the same sources.

    ``correction_source`` is a uniform number in [0, 1): of any n sources, the one of index
    floor(n * it) is to be corrected. As the choice knows nothing of the configuration, O_g - A_g +
    mean(A) has the mean of O over the n sources even where A breaks translations.

    Args:
        lattice: even extents; the last direction is time.
        group: gauge group.
        mass: positive bare mass.
        times: different separations of the pion correlator; may be empty.
        tolerances: relative residuals of the sloppy solves, all looser than the exact one.
        n_sources: points, and noise vectors, a configuration.
        trace: whether the noise is solved for.
        exact: relative residual of the exact solves.
        boundary: phase of each direction; antiperiodic in time by default.
        max_iterations: limit a solve.

    Raises:
        InputError: for a mass, times, tolerances or a number of sources out of range, or nothing to
            measure.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> sources = SloppySources(lattice, group, 0.5, times=(2,), tolerances=(1e-1,), n_sources=2)
        >>> measured = sources.measure(group.cold(lattice, 3), torch.Generator().manual_seed(1))
        >>> measured["meson_pion_t2_l1_s0"].shape, sources.quantities
        (torch.Size([3]), ('meson_pion_t2', 'trace_inverse_1'))
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        times: Sequence[int],
        tolerances: Sequence[float],
        n_sources: int,
        trace: bool = True,
        exact: float = 1e-9,
        boundary: Sequence[int] | None = None,
        max_iterations: int = 5000,
    ) -> None:
        if not mass > 0 or not 1 <= n_sources <= lattice.volume:
            raise InputError(
                f"many sources need mass > 0 and 1 to {lattice.volume} of them, got {mass}, {n_sources}"
            )
        times, extent = list(times), lattice.shape[-1]
        if len(set(times)) < len(times) or any(t not in range(extent) for t in times):
            raise InputError(f"times must be different ones of 0 to {extent - 1}, got {times}")
        if not times and not trace:
            raise InputError("nothing to measure: give times of the pion correlator, or trace: true")
        levels = [float(t) for t in tolerances]
        if not 0 < exact < 1 or not levels or len(set(levels)) < len(levels) or any(
            not exact <= t < 1 for t in levels
        ):
            raise InputError(
                f"tolerances must be one or more different ones from the exact one, {exact}, to 1, "
                f"got {list(tolerances)}"
            )
        self.operator = StaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass, self.n_sources = lattice, float(mass), int(n_sources)
        self.times, self.trace = tuple(int(t) for t in times), trace
        self.levels = (float(exact), *levels)
        self.max_iterations = max_iterations

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what is measured, correlators first."""
        return (*(f"meson_pion_t{t}" for t in self.times), *([TRACE] if self.trace else []))

    @staticmethod
    def kind(quantity: str) -> str:
        """Sources of a quantity, ``points`` or ``noise``."""
        return NOISE if quantity == TRACE else POINTS

    def draw(self, n_chains: int, rng: torch.Generator) -> tuple[list[tuple[int, ...]], list[Tensor]]:
        """Points and noise vectors (packed, even sites) of one measurement."""
        origin = int(torch.randint(self.lattice.volume, (1,), generator=rng, device=rng.device))
        points = spread_points(self.lattice, self.n_sources, origin)
        n_noise = self.n_sources if self.trace else 0
        return points, [self.operator.gaussian(n_chains, rng) for _ in range(n_noise)]

    def solve_points(
        self, matrices: HopMatrices, points: Sequence[Sequence[int]], level: int
    ) -> tuple[Tensor, Tensor]:
        """Pion correlators at all times ``[n_points, L_t, batch]`` and iterations ``[n_points, batch]``."""
        operator = self.operator.to(matrices[EVEN].device)
        values, iterations = point_correlators(
            operator, matrices, points, self.mass, self.levels[level], self.max_iterations
        )
        return values[:, 0], iterations

    def solve_noise(
        self, matrices: HopMatrices, noise: Sequence[Tensor], level: int
    ) -> tuple[Tensor, Tensor]:
        """Traces and iterations, ``[n_sources, batch]`` each."""
        operator = self.operator.to(matrices[EVEN].device)
        return noise_traces(
            operator, matrices, noise, self.mass, self.levels[level], self.max_iterations
        )

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        operator = self.operator.to(field.device)
        matrices = operator.hop_matrices(operator.group.pack(field))
        points, noise = self.draw(field.shape[0], rng)
        result = {PICK: torch.rand(field.shape[0], generator=rng, dtype=torch.float64, device=rng.device)}
        for level in range(len(self.levels)):
            rows: dict[str, Tensor] = {}
            if self.times:
                correlators, rows[f"{POINTS}_iterations"] = self.solve_points(matrices, points, level)
                rows |= {f"meson_pion_t{t}": correlators[:, t] for t in self.times}
            if self.trace:
                rows[TRACE], rows[f"{NOISE}_iterations"] = self.solve_noise(matrices, noise, level)
            for name, row in rows.items():
                for source, value in enumerate(row):
                    result[f"{name}_l{level}_s{source}"] = value
        return result

    def gather(self, series: Mapping[str, npt.NDArray[np.float64]], name: str) -> npt.NDArray[np.float64]:
        """Series of a quantity, or of ``points_iterations``, as ``[levels, sources, chains, steps]``."""
        return np.array(
            [
                [series[f"{name}_l{level}_s{source}"] for source in range(self.n_sources)]
                for level in range(len(self.levels))
            ]
        )


def noise_traces(
    operator: StaggeredOperator,
    matrices: HopMatrices,
    noise: Sequence[Tensor],
    mass: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Re Tr D^-1 / V of each noise vector: 2 m / V Re xi^dag (D D^dag)^-1 xi, xi on the even sites.

    Args:
        operator: on the device of its matrices.
        matrices: signed hops of the configurations, from ``operator.hop_matrices``.
        noise: packed fields on the even sites, ``[2, N, V/2, batch]`` each, <xi xi^dag> = 1.
        mass: positive bare mass.
        tolerance: relative residual of a solve, in (0, 1).
        max_iterations: limit a solve.

    Returns:
        Traces and iterations, ``[n_sources, batch]`` each.

    Raises:
        ConvergenceError: where a solve fails.
    """
    values, counts = [], []
    for xi in noise:
        solution = operator.solve(matrices, xi, [mass], EVEN, tolerance, max_iterations)
        solution.require_converged("noise traces", tolerance, max_iterations)
        values.append(2 * mass / operator.lattice.volume * (xi * solution.x[0]).sum((0, 1, 2)))
        counts.append(solution.iterations.to(torch.float64))
    return torch.stack(values), torch.stack(counts)
