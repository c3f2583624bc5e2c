"""Correlators of local staggered mesons from point sources."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.fermions.staggered import HopMatrices
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable
from lattice_lightning.observables.fermion import check_solver

__all__ = ["CHANNELS", "StaggeredMesons", "check_channels", "point_correlators", "spread_points"]

CHANNELS = ("pion", "scalar", "vector", "pseudovector")


class StaggeredMesons(Observable):
    """``meson_{channel}_t{t}``: correlator of a local meson, t lattice spacings after its point source.

    With G(x) = D^-1(x, source) of one staggered field and x, y, z, t relative to the source,

        C(t) = sum_{x, y, z} phase(x, y, z) sum_{a, b} |G_ab(x, y, z, t)|^2,

    summed over the N colours at either end and divided by nothing. The phases (Golterman, Nucl. Phys.
    B273 (1986) 663) are 1 for the ``pion`` (the Goldstone one, without partner); (-1)^{x+y+z} for the
    ``scalar``; the mean over spatial directions of (-1)^{x_i} for the ``vector``; the mean over pairs
    of them of (-1)^{x_i + x_j} for the ``pseudovector``. The last three carry a partner of opposite
    parity that alternates as (-1)^t. In two dimensions scalar and vector agree and no pair exists.

    A pion obeys the Ward identity sum_t C(t) = sum_a Re G_aa(source) / m, whose average over sources
    is the chiral condensate over m.

    ``meson_{channel}_t{t}_noise`` is the variance of the mean over the points, from their scatter as if
    they were independent (two points or more); ``meson_iterations`` counts the iterations of all solves.

    Args:
        lattice: even extents; the last direction is time.
        group: gauge group.
        mass: positive bare mass.
        times: different times from 0 to L_t - 1.
        channels: different names out of ``CHANNELS``.
        n_sources: source points a configuration, spread evenly from an origin that is drawn anew at
            each measurement and shared by all chains.
        boundary: phase of each direction; antiperiodic in time by default.
        tolerance: relative residual.
        max_iterations: limit a solve.

    Raises:
        InputError: for a mass, times, channels or number of points out of range.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> mesons = StaggeredMesons(lattice, group, mass=0.5, times=(0, 2))
        >>> sorted(mesons.measure(group.cold(lattice, 1), torch.Generator().manual_seed(1)))
        ['meson_iterations', 'meson_pion_t0', 'meson_pion_t2']
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        times: Sequence[int],
        channels: Sequence[str] = ("pion",),
        n_sources: int = 1,
        boundary: Sequence[int] | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 5000,
    ) -> None:
        if not mass > 0 or not 1 <= n_sources <= lattice.volume:
            raise InputError(
                f"mesons need mass > 0 and 1 to {lattice.volume} source points, got {mass}, {n_sources}"
            )
        times, extent = list(times), lattice.shape[-1]
        if not times or len(set(times)) < len(times) or any(t not in range(extent) for t in times):
            raise InputError(
                f"times must be one or more different ones of 0 to {extent - 1}, got {times}"
            )
        self.channels = check_channels(channels, lattice)
        check_solver(tolerance, max_iterations)
        self.operator = StaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass, self.n_sources = lattice, float(mass), int(n_sources)
        self.times = tuple(int(t) for t in times)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError when a solve fails."""
        operator = self.operator.to(field.device)
        matrices = operator.hop_matrices(operator.group.pack(field))
        origin = torch.randint(self.lattice.volume, (1,), generator=rng, device=rng.device)
        points = spread_points(self.lattice, self.n_sources, int(origin))
        values, iterations = point_correlators(
            operator,
            matrices,
            points,
            self.mass,
            self.tolerance,
            self.max_iterations,
            channels=self.channels,
        )
        result = {}
        for k, channel in enumerate(self.channels):
            for t in self.times:
                name, scatter = f"meson_{channel}_t{t}", values[:, k, t]
                result[name] = scatter.mean(0)
                if self.n_sources > 1:
                    result[f"{name}_noise"] = scatter.var(0) / self.n_sources
        result["meson_iterations"] = iterations.sum(0)
        return result


def point_correlators(
    operator: StaggeredOperator,
    matrices: HopMatrices,
    points: Sequence[Sequence[int]],
    mass: float,
    tolerance: float,
    max_iterations: int,
    *,
    channels: Sequence[str] = ("pion",),
    require: bool = True,
) -> tuple[Tensor, Tensor]:
    """Meson correlators of each source point, normalised as :class:`StaggeredMesons` says.

    D^-1 = D^dag (D D^dag)^-1: one solve y on the parity of the source gives m y there and -K y on the
    other, since K is anti-hermitian. Sloppy correlators come from a loose tolerance, or from a fixed
    number of iterations: a tolerance out of reach, ``max_iterations`` and ``require=False``.

    Args:
        operator: on the device of its matrices.
        matrices: signed hops of the configurations, from ``operator.hop_matrices``.
        points: coordinates of the sources, ``[n_points][d]``.
        mass: positive bare mass.
        tolerance: relative residual of a solve, in (0, 1).
        max_iterations: limit a solve.
        channels: names out of ``CHANNELS``.
        require: whether a solve that misses its tolerance is an error.

    Returns:
        Correlators ``[n_points, n_channels, L_t, batch]`` at times 0 to L_t - 1 from the source, and
        iterations of the N solves of each point together, ``[n_points, batch]``, double precision both.

    Raises:
        InputError: for a point outside the lattice, or a wrong mass, channel, tolerance or limit.
        ConvergenceError: where ``require`` and a solve fails.
    """
    lattice, n_colors = operator.lattice, operator.group.n_colors
    _check_points(points, lattice)
    if not mass > 0:
        raise InputError(f"mesons need mass > 0, got {mass}")
    device, n_chains = matrices[EVEN].device, matrices[EVEN].shape[-1]
    phases = _phases(check_channels(channels, lattice), lattice).to(device)
    values, counts = [], []
    for point in points:
        parity = sum(point) % 2
        iterations = torch.zeros(n_chains, dtype=torch.float64, device=device)
        density = torch.zeros(lattice.volume, n_chains, dtype=torch.float64, device=device)
        for color in range(n_colors):
            delta = torch.zeros(1, *lattice.shape, n_colors, dtype=torch.complex128, device=device)
            delta[(0, *point, color)] = 1
            b = operator.pack_field(delta, parity).expand(-1, -1, -1, n_chains).contiguous()
            solution = operator.solve(matrices, b, [mass], parity, tolerance, max_iterations)
            if require:
                solution.require_converged("mesons", tolerance, max_iterations)
            iterations += solution.iterations
            y = solution.x[0]
            here, there = mass * y, operator.hop(matrices, y, 1 - parity)  # -K y, its sign squared away
            even, odd = (here, there) if parity == EVEN else (there, here)
            density += operator.join(even, odd).square().sum((0, 1))
        # roll the source to the origin; extents are even, so the signs move along
        sites = density.reshape(*lattice.shape, n_chains)
        sites = sites.roll([-x for x in point], tuple(range(lattice.ndim)))
        values.append(torch.einsum("cs,stb->ctb", phases, sites.flatten(0, lattice.ndim - 2)))
        counts.append(iterations)
    return torch.stack(values), torch.stack(counts)


def spread_points(lattice: Lattice, n_points: int, origin: int = 0) -> list[tuple[int, ...]]:
    """Different sites spread evenly over the periodic lattice, ``[n_points][d]``.

    The first is the origin, each other one the site farthest from those before it (the first such site
    in the order of the lattice): the pattern is fixed and moves with the origin, so that every point of
    a random origin is uniform over the lattice.

    Args:
        lattice: the lattice.
        n_points: from 1 to the volume.
        origin: index of the first point among the flattened sites.

    Raises:
        InputError: for a number of points or an origin out of range.

    Example:
        >>> spread_points(Lattice((4, 8)), 3)
        [(0, 0), (2, 4), (0, 3)]
    """
    volume = lattice.volume
    if not 1 <= n_points <= volume or not 0 <= origin < volume:
        raise InputError(
            f"expected 1 to {volume} points and an origin from 0 to {volume - 1}, got {n_points}, {origin}"
        )
    sites = lattice.coordinates().flatten(1)
    extents = torch.tensor(lattice.shape).unsqueeze(1)
    chosen = [0]
    nearest = torch.full((volume,), 2 * int(extents.square().sum()))
    while len(chosen) < n_points:
        apart = (sites - sites[:, chosen[-1:]]).remainder(extents)
        nearest = torch.minimum(nearest, torch.minimum(apart, extents - apart).square().sum(0))
        # argmax alone may return any of equal distances
        chosen.append(int((nearest == nearest.max()).nonzero()[0]))
    moved = (sites[:, chosen] + sites[:, [origin]]).remainder(extents)
    return [tuple(int(x) for x in point) for point in moved.T]


def check_channels(channels: Sequence[str], lattice: Lattice) -> tuple[str, ...]:
    """The channels, where they exist on this lattice.

    Raises:
        InputError: for none, an unknown or a repeated one, or a pseudovector with one spatial direction.
    """
    found = tuple(channels)
    if not found or len(set(found)) < len(found) or any(name not in CHANNELS for name in found):
        raise InputError(
            f"channels must be one or more different ones of {', '.join(CHANNELS)}, got {list(found)}"
        )
    if "pseudovector" in found and lattice.ndim < 3:
        raise InputError(
            f"the pseudovector needs two spatial directions, got the lattice {lattice.shape}; leave it out"
        )
    return found


def _phases(channels: Sequence[str], lattice: Lattice) -> Tensor:
    """Signs of the channels on a time slice, ``[n_channels, spatial sites]``."""
    n_space = lattice.ndim - 1
    # spatial directions that share a sign; the mean is over the choices of so many
    chosen = {"pion": 0, "scalar": n_space, "vector": 1, "pseudovector": 2}
    x = lattice.coordinates()[:-1].select(-1, 0).flatten(1)
    rows = []
    for channel in channels:
        signs = [
            1 - 2 * (x[list(directions)].sum(0) % 2)
            for directions in combinations(range(n_space), chosen[channel])
        ]
        rows.append(torch.stack(signs).to(torch.float64).mean(0))
    return torch.stack(rows)


def _check_points(points: Sequence[Sequence[int]], lattice: Lattice) -> None:
    for point in points:
        if len(point) != lattice.ndim or any(
            x not in range(extent) for x, extent in zip(point, lattice.shape, strict=False)
        ):
            raise InputError(
                f"source points need {lattice.ndim} coordinates on the lattice {lattice.shape}, "
                f"got {tuple(point)}"
            )
    if not len(points):
        raise InputError("expected one source point or more, got none")
