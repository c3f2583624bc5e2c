"""Plaquette, Wilson loops, Polyakov loops and topological charge."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import straight_loop, wilson_loops
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["Plaquette", "PolyakovLoops", "TopologicalCharge", "WilsonLoop", "plaquette", "polyakov_loop"]

AXES = "xyzt"


def axis_name(lattice: Lattice, mu: int) -> str:
    """x, y, z or t; the last axis is time in any dimension."""
    return "t" if mu == lattice.ndim - 1 else AXES[mu]


def require_gauge_group(group: FieldSpace, what: str) -> Group:
    """The group, where it is one; ``what`` begins the sentence of the InputError."""
    if not isinstance(group, Group):
        raise InputError(f"{what} needs a gauge field, got a field of {group.name}")
    return group


def plaquette(group: Group, lattice: Lattice, field: Tensor) -> Tensor:
    """Re tr P / N averaged over sites and planes, ``[batch]``."""
    planes = wilson_loops(group, lattice, group.pack(field), 1, 1)
    return planes.flatten(0, -2).mean(0) / group.n_colors


def polyakov_loop(group: Group, lattice: Lattice, field: Tensor, mu: int) -> Tensor:
    """tr of the straight loop along mu, averaged over space, not divided by N, complex ``[batch]``."""
    loop = straight_loop(group, lattice, group.pack(field), mu)
    real = group.re_trace(loop).flatten(0, -2).mean(0)
    imag = group.im_trace(loop).flatten(0, -2).mean(0)
    return torch.complex(real, imag)


class Plaquette(Observable):
    """``plaquette``: Re tr P / N averaged over planes."""

    def __init__(self, lattice: Lattice, group: FieldSpace) -> None:
        self.lattice, self.group = lattice, require_gauge_group(group, "the plaquette")

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        return {"plaquette": plaquette(self.group, self.lattice, field)}


class WilsonLoop(Observable):
    """``wilson_loop_RxT``: Re tr W / N, both orientations averaged over all planes.

    Args:
        lattice: the lattice.
        group: gauge group.
        sizes: pairs (R, T), each side at most the smallest extent.
    """

    def __init__(self, lattice: Lattice, group: FieldSpace, sizes: Sequence[Sequence[int]]) -> None:
        self.lattice, self.group = lattice, require_gauge_group(group, "a Wilson loop")
        self.sizes = [(int(r), int(s)) for r, s in sizes]
        for r, s in self.sizes:
            if not 1 <= min(r, s) <= max(r, s) <= min(lattice.shape):
                raise InputError(
                    f"Wilson loop {r}x{s} does not fit the lattice {lattice.shape}; use sides from 1 "
                    f"to {min(lattice.shape)}"
                )

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        links = self.group.pack(field)
        result = {}
        for r, s in self.sizes:
            loops = wilson_loops(self.group, self.lattice, links, r, s).flatten(0, -2).mean(0)
            if r != s:
                other = wilson_loops(self.group, self.lattice, links, s, r).flatten(0, -2).mean(0)
                loops = 0.5 * (loops + other)
            result[f"wilson_loop_{r}x{s}"] = loops / self.group.n_colors
        return result


class PolyakovLoops(Observable):
    """``polyakov_loop`` (time, real part) and ``polyakov_loop_x`` ... ``_t``; tr, not divided by N.

    With ``symmetrised``, also ``polyakov_loop_symmetrised``, the mean of all directions with the
    sign of their boundary: for SU(2) on L^d with one antiperiodic direction, exactly
    <L_x> = <L_y> = <L_z> = -<L_t> (physics: flipping a slice of links turns periodic into
    antiperiodic), so the mean of -L_x, -L_y, -L_z, L_t.

    Args:
        lattice: the lattice.
        group: gauge group.
        symmetrised: also the sign-corrected mean.
        boundary: of the fermions, a sign for each direction; antiperiodic in time by default.

    Raises:
        InputError: when symmetrised is asked for another group, unequal extents or another boundary.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        symmetrised: bool = False,
        boundary: Sequence[int] | None = None,
    ) -> None:
        self.lattice, self.group = lattice, require_gauge_group(group, "a Polyakov loop")
        self.signs = [-phase for phase in boundary or (1,) * (lattice.ndim - 1) + (-1,)]
        if symmetrised and (self.signs.count(1) != 1 or len(self.signs) != lattice.ndim):
            raise InputError(
                "polyakov_loop_symmetrised holds for exactly one antiperiodic direction, got the boundary "
                f"{list(boundary or [])}; set symmetrised: false"
            )
        if symmetrised and (group.name != "SU(2)" or len(set(lattice.shape)) > 1):
            raise InputError(
                "polyakov_loop_symmetrised holds for SU(2) on equal extents with one antiperiodic "
                f"direction only, got {group.name} on {lattice.shape}; set symmetrised: false"
            )
        self.symmetrised = symmetrised

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        loops = [
            polyakov_loop(self.group, self.lattice, field, mu).real
            for mu in range(self.lattice.ndim)
        ]
        result = {"polyakov_loop": loops[-1]}
        for mu, loop in enumerate(loops):
            result[f"polyakov_loop_{axis_name(self.lattice, mu)}"] = loop
        if self.symmetrised:
            signed = [sign * loop for sign, loop in zip(self.signs, loops, strict=True)]
            result["polyakov_loop_symmetrised"] = torch.stack(signed).mean(0)
        return result


class TopologicalCharge(Observable):
    """``topological_charge`` and its square over the volume, for U(1) in two dimensions.

    Q = sum of plaquette angles wrapped to (-pi, pi] / 2 pi, an integer;
    ``topological_susceptibility`` is Q^2 / V for each configuration.
    """

    def __init__(self, lattice: Lattice, group: FieldSpace) -> None:
        if group.name != "U(1)" or lattice.ndim != 2:
            raise InputError(
                f"the topological charge is defined here for U(1) in 2d, got {group.name} in "
                f"{lattice.ndim}d; take topological_charge out of the observables"
            )
        self.lattice, self.group = lattice, require_gauge_group(group, "the topological charge")

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        x, y = field[:, 0], field[:, 1]
        angle = x + self.lattice.shift(y, 0) - self.lattice.shift(x, 1) - y
        charge = self.group.reunitarise(angle).flatten(1).sum(1) / (2 * pi)
        charge = charge.round()
        return {
            "topological_charge": charge,
            "topological_susceptibility": charge.square() / self.lattice.volume,
        }
