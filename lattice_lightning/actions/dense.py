"""The fermion determinant itself as the weight, by dense factorisation.

S = -ln det (D D^dag)_ee, the effective action of one staggered field on the even sites: since
det D = det (D D^dag)_ee, it weighs fields as :class:`StaggeredFermion` does on average over its
pseudofermions (4 tastes in four dimensions), without pseudofermions and without a solver. Its cost grows
with the third power of the volume: a reference for small lattices.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lattice_lightning.actions.base import Aux, GaugeAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions.dense import DenseStaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["DenseStaggered"]


class DenseStaggered(GaugeAction):
    """S = -ln det (D D^dag)_ee of one staggered field.

    Args:
        lattice: even extents.
        group: gauge group of the links.
        mass: positive bare mass.
        boundary: phase of each direction; antiperiodic in time by default.

    Raises:
        InputError: for a mass that is not positive, or a lattice that is odd or too large.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((2, 2)), SU2()
        >>> action = DenseStaggered(lattice, group, mass=0.5)
        >>> action.value(group.cold(lattice, 1), {})
        tensor([-0.8926], dtype=torch.float64)
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        boundary: Sequence[int] | None = None,
    ) -> None:
        super().__init__(lattice, group)
        if not 0 < mass < float("inf"):
            raise InputError(f"the staggered mass must be positive and finite, got mass={mass}")
        self.mass, self.operator = float(mass), DenseStaggeredOperator(lattice, group, boundary)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain; exact at every tolerance."""
        value: Tensor = _MinusLogDet.apply(  # type: ignore[no-untyped-call]
            self.operator.hops(links), self.operator, self.mass, strict
        )
        return value


class _MinusLogDet(torch.autograd.Function):
    """-ln det(m^2 + A A^dag) with its closed-form gradient -2 (m^2 + A A^dag)^-1 A."""

    @staticmethod
    def forward(
        ctx: Any, hops: Tensor, operator: DenseStaggeredOperator, mass: float, strict: bool
    ) -> Tensor:
        factor, failed = operator.factor(hops, mass, strict=strict)
        diagonal = factor.diagonal(dim1=1, dim2=2).real
        value = -2 * diagonal.log().sum(1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(hops, factor)
        return torch.where(failed == 0, value, float("nan"))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would let a sum with a differentiable term drop this one silently
        if torch.is_grad_enabled():
            raise InputError(
                "the dense determinant gives its first derivative only; take its gradient without "
                "create_graph"
            )
        hops, factor = ctx.saved_tensors
        inverse = torch.cholesky_solve(hops, factor)
        return -2 * gradient[:, None, None] * inverse, None, None, None
