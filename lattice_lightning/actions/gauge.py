"""Pure gauge actions: Wilson plaquette and rectangle-improved.

S = beta sum_{n, mu<nu} [ c0 (1 - Re tr P/N) + c1 sum_{two orientations} (1 - Re tr R/N) ],
c0 = 1 - 8 c1. Wilson: c1 = 0 (Phys. Rev. D 10, 2445).
"""

from math import isfinite

import torch
from torch import Tensor

from lattice_lightning.actions.base import Aux, GaugeAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import wilson_force, wilson_loops, wilson_sum
from lattice_lightning.groups import FieldSpace
from lattice_lightning.groups.compiled import worth_fusing
from lattice_lightning.lattice import Lattice

__all__ = ["RECTANGLE_COEFFICIENTS", "ImprovedGauge", "WilsonGauge"]

RECTANGLE_COEFFICIENTS = {"symanzik": -1 / 12, "iwasaki": -0.331, "dbw2": -1.4088}


def _finite(name: str, value: float) -> float:
    if not isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}")
    return float(value)


class WilsonGauge(GaugeAction):
    """S = beta sum_{n, mu<nu} (1 - Re tr P_{mu nu}(n) / N).

    Args:
        lattice: the lattice.
        group: gauge group.
        beta: inverse coupling, any finite number.

    Raises:
        InputError: for another beta.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> WilsonGauge(lattice, group, beta=2.7).value(group.cold(lattice, 2), {})
        tensor([0., 0.], dtype=torch.float64)
    """

    def __init__(self, lattice: Lattice, group: FieldSpace, beta: float) -> None:
        super().__init__(lattice, group)
        self.beta = _finite("beta", beta)

    def _packed_force(self, motion: Tensor, aux: Aux, strict: bool) -> Tensor:
        """Closed form, fused, where that pays."""
        if self._worth_fusing(motion):
            force = wilson_force(self.space, self.lattice, motion, self.beta)
            if force is not None:
                return force
        return super()._packed_force(motion, aux, strict)

    def _motion_value(self, motion: Tensor, aux: Aux, strict: bool) -> Tensor:
        """Fused, where that pays."""
        if self._worth_fusing(motion):
            total = wilson_sum(self.space, self.lattice, motion)
            if total is not None:
                return self.beta * total
        return super()._motion_value(motion, aux, strict)

    def _worth_fusing(self, motion: Tensor) -> bool:
        # the closed forms are of this action alone, not of a subclass that adds to it
        own = type(self).packed_value is WilsonGauge.packed_value
        return own and worth_fusing(motion[(0,) * (motion.ndim - self.lattice.ndim - 2)])

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain."""
        planes = wilson_loops(self.space, self.lattice, links, 1, 1)
        n_loops = self.lattice.n_planes * self.lattice.volume
        loops = planes.flatten(0, -2).sum(0)
        return self.beta * (n_loops - loops / self.space.n_colors)


class ImprovedGauge(GaugeAction):
    """Plaquette and 1x2 rectangle in both orientations, c0 = 1 - 8 c1.

    Args:
        lattice: the lattice; every extent at least 2.
        group: gauge group.
        beta: inverse coupling.
        c1: rectangle coefficient, or ``symanzik`` (-1/12), ``iwasaki`` (-0.331, hep-lat/9706024),
            ``dbw2`` (-1.4088, hep-lat/9610023).

    Raises:
        InputError: for an unknown name of the coefficient, or a coupling that is not finite.
    """

    def __init__(
        self, lattice: Lattice, group: FieldSpace, beta: float, c1: float | str = "symanzik"
    ) -> None:
        super().__init__(lattice, group)
        if isinstance(c1, str):
            if c1 not in RECTANGLE_COEFFICIENTS:
                raise InputError(
                    f"c1 must be a number or one of {', '.join(RECTANGLE_COEFFICIENTS)}, got {c1!r}"
                )
            c1 = RECTANGLE_COEFFICIENTS[c1]
        self.beta, self.c1 = _finite("beta", beta), _finite("c1", c1)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain."""
        n_loops = self.lattice.n_planes * self.lattice.volume
        terms = []
        for coefficient, r, s in ((1 - 8 * self.c1, 1, 1), (self.c1, 1, 2), (self.c1, 2, 1)):
            loops = wilson_loops(self.space, self.lattice, links, r, s).flatten(0, -2).sum(0)
            terms.append(coefficient * (n_loops - loops / self.space.n_colors))
        return self.beta * torch.stack(terms).sum(0)
