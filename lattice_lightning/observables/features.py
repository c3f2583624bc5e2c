"""Cheap gauge observables in numbers: what a surrogate of an expensive observable learns from."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import stout
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable
from lattice_lightning.observables.gauge import axis_name, require_gauge_group

__all__ = ["GaugeFeatures"]

PLAQUETTE_SIZE = (1, 1)


class Rectangle(NamedTuple):
    """A closed loop of r steps along mu and s along nu, mu < nu."""

    mu: int
    nu: int
    r: int
    s: int


class GaugeFeatures(Observable):
    """Wilson loops by plane and size, Polyakov loops and their moments, all of smeared links too.

    With P the plaquette, l(x) the trace of the Polyakov loop through x (not divided by N) and < > the
    mean over sites or over space, for every plane such as xy and every direction such as x:

    ===============================  ======================================================
    ``wilson_loop_RxS_xy``           <Re tr W>/N, R steps along x and S along y, R != S in both
                                     orientations (``wilson_loop_1x2_xy``, ``wilson_loop_2x1_xy``)
    ``plaquette_square_xy``          <(Re tr P / N)^2>
    ``polyakov_loop_x_re``, ``_im``  <Re l>, <Im l>
    ``polyakov_loop_x_abs2``         <|l|^2>
    ``polyakov_loop_x_square``       |<l>|^2
    ``polyakov_loop_x_re3``, ``re4`` <(Re l)^3>, <(Re l)^4>
    ===============================  ======================================================

    What is constant is left out, since it teaches nothing: Im l of SU(2), |l|^2 = 1 of U(1). A loop fits
    where it does not wind: R < L_x and S < L_y for its own plane; the orientations and planes where it
    does not are left out. After n steps of stout smearing the names begin with ``smeared{n}_``.

    Args:
        lattice: the lattice.
        group: gauge group.
        sizes: pairs [R, S] of the Wilson loops.
        polyakov: also the Polyakov loops.
        smearing: ``rho`` (0.1) and ``steps`` of stout smearing, where 0 stands for the links as they are:
            {rho: 0.1, steps: [0, 3]} measures both, and ``steps: 3`` smeared links only; None for
            unsmeared ones.
        by_plane: False for the mean over planes and orientations, under the names ``wilson_loop_RxS`` of
            :class:`~lattice_lightning.observables.WilsonLoop` (measure one or the other) and
            ``plaquette_square``; Polyakov loops stay as they are.

    Attributes:
        names: of everything that is measured, in order.

    Raises:
        InputError: for a size that fits no plane or comes twice, or smearing without meaning.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> GaugeFeatures(Lattice((4, 2)), SU2(), [[1, 2]], polyakov=False).names
        ['wilson_loop_2x1_xt', 'plaquette_square_xt']
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        sizes: Sequence[Sequence[int]] = ((1, 1), (1, 2), (2, 2)),
        polyakov: bool = True,
        smearing: Mapping[str, Any] | None = None,
        by_plane: bool = True,
    ) -> None:
        self.lattice, self.group = lattice, require_gauge_group(group, "gauge features")
        self.polyakov = polyakov
        self.rho, self.levels = _smearing({"steps": 0} if smearing is None else smearing)
        d = lattice.ndim
        self.planes = [(mu, nu) for mu in range(d) for nu in range(mu + 1, d)]
        plaquettes = [Rectangle(mu, nu, *PLAQUETTE_SIZE) for mu, nu in self.planes]
        self.loops: dict[str, list[Rectangle]] = {}
        self.squares = {"plaquette_square": plaquettes}
        if by_plane:
            self.squares = {f"plaquette_square_{self._plane(p)}": [p] for p in plaquettes}
        needed = dict.fromkeys(plaquettes)
        for r, s in _sizes(sizes):
            fitting = self._fitting(r, s)
            needed |= dict.fromkeys(fitting)
            if by_plane:
                self.loops |= {f"wilson_loop_{a.r}x{a.s}_{self._plane(a)}": [a] for a in fitting}
            else:
                self.loops[f"wilson_loop_{r}x{s}"] = fitting
        self.rectangles = list(needed)
        axes = [axis_name(lattice, mu) for mu in range(d)]
        moments = [f"polyakov_loop_{axis}_{moment}" for axis in axes for moment in self._moments()]
        own = [*self.loops, *self.squares, *(moments if polyakov else [])]
        self.names = [_prefix(level) + name for level in self.levels for name in own]

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        links, done = self.group.pack(field), 0
        values: dict[str, Tensor] = {}
        for level in self.levels:
            links, done = stout(self.group, self.lattice, links, self.rho, level - done), level
            measured = self._wilson_loops(links)
            if self.polyakov:
                measured |= self._polyakov_loops(links)
            values |= {_prefix(level) + name: value for name, value in measured.items()}
        return values

    def _plane(self, loop: Rectangle) -> str:
        return axis_name(self.lattice, loop.mu) + axis_name(self.lattice, loop.nu)

    def _fitting(self, r: int, s: int) -> list[Rectangle]:
        """Both orientations in every plane, where they do not wind."""
        shape = self.lattice.shape
        fitting = [
            Rectangle(mu, nu, *size)
            for mu, nu in self.planes
            for size in dict.fromkeys([(r, s), (s, r)])
            if size[0] < shape[mu] and size[1] < shape[nu]
        ]
        if not fitting:
            raise InputError(
                f"a {r}x{s} Wilson loop winds around the lattice {shape} in every plane; take it out of "
                "sizes (a loop fits where its sides are shorter than the extents)"
            )
        return fitting

    def _moments(self) -> list[str]:
        """What is not constant: SU(2) has real traces, U(1) has |l| = 1."""
        constant = {1: "abs2", 2: "im"}.get(self.group.n_colors)
        return [m for m in ("re", "im", "abs2", "square", "re3", "re4") if m != constant]

    def _wilson_loops(self, links: Tensor) -> dict[str, Tensor]:
        """Loops and squares of plaquettes; a rectangle is made of lines, as in gauge.wilson_loops."""
        group, lattice = self.group, self.lattice
        lines: dict[tuple[int, int], Tensor] = {}
        for mu in range(lattice.ndim):
            u = lines[mu, 1] = lattice.direction_packed(links, mu).contiguous()
            longest = max(max(a.r * (a.mu == mu), a.s * (a.nu == mu)) for a in self.rectangles)
            for length in range(1, longest):
                lines[mu, length + 1] = group.mul(lines[mu, length], lattice.shift_packed(u, mu, length))
        means, squares = {}, {}
        for a in self.rectangles:
            along, up = lines[a.mu, a.r], lines[a.nu, a.s]
            first = group.mul(along, lattice.shift_packed(up, a.mu, a.r))
            second = group.mul(up, lattice.shift_packed(along, a.nu, a.s))
            local = group.inner(first, second).flatten(0, -2) / group.n_colors
            means[a] = local.mean(0)
            if (a.r, a.s) == PLAQUETTE_SIZE:
                squares[a] = local.square().mean(0)
        return {
            name: torch.stack([values[a] for a in rectangles]).mean(0)
            for values, named in ((means, self.loops), (squares, self.squares))
            for name, rectangles in named.items()
        }

    def _polyakov_loops(self, links: Tensor) -> dict[str, Tensor]:
        """Moments of the loops through the slice x_mu = 0; their traces are the same from any other."""
        group, result = self.group, {}
        for mu in range(self.lattice.ndim):
            slices = self.lattice.direction_packed(links, mu).unbind(mu - self.lattice.ndim - 1)
            loop = reduce(group.mul, slices)
            re, im = group.re_trace(loop).flatten(0, -2), group.im_trace(loop).flatten(0, -2)
            moments = {
                "re": re.mean(0),
                "im": im.mean(0),
                "abs2": (re.square() + im.square()).mean(0),
                "square": re.mean(0).square() + im.mean(0).square(),
                "re3": re.pow(3).mean(0),
                "re4": re.pow(4).mean(0),
            }
            for moment in self._moments():
                result[f"polyakov_loop_{axis_name(self.lattice, mu)}_{moment}"] = moments[moment]
        return result


def _prefix(level: int) -> str:
    return f"smeared{level}_" if level else ""


def _sizes(sizes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of positive integers, none twice; [1, 2] and [2, 1] are the same pair."""
    pairs = [tuple(size) for size in sizes]
    if any(len(p) != 2 or any(n != int(n) or n < 1 for n in p) for p in pairs):
        raise InputError(f"sizes must be pairs of positive integers like [[1, 1], [1, 2]], got {pairs}")
    if len({tuple(sorted(p)) for p in pairs}) < len(pairs):
        raise InputError(
            f"sizes holds a loop twice: {pairs}; write [1, 2] or [2, 1], both orientations are measured"
        )
    return [(int(r), int(s)) for r, s in pairs]


def _smearing(options: Mapping[str, Any]) -> tuple[float, list[int]]:
    """Weight and rising levels."""
    if not isinstance(options, Mapping) or not {"steps"} <= set(options) <= {"rho", "steps"}:
        raise InputError(
            f"smearing must hold steps and perhaps rho, like {{rho: 0.1, steps: [0, 3]}}, got {options}"
        )
    rho, steps = float(options.get("rho", 0.1)), options["steps"]
    levels = [steps] if isinstance(steps, int) else list(steps)
    whole = all(isinstance(n, int) and n >= 0 for n in levels)
    if not levels or not whole or len(set(levels)) < len(levels) or not 0 < rho < float("inf"):
        raise InputError(
            "smearing needs rho > 0 and different numbers of steps >= 0, like {rho: 0.1, steps: [0, 3]}, "
            f"got rho = {rho} and steps = {steps}"
        )
    return rho, sorted(levels)
