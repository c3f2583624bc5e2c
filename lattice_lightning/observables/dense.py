"""The chiral condensate without sources and without a solver, for small lattices and as a reference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import DenseStaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["DenseCondensate"]


class DenseCondensate(Observable):
    """``chiral_condensate``: Re Tr D^-1 / V of one staggered field (4 tastes in 4d), colour summed, exact.

    Re Tr D^-1 = 2 m Tr_even (D D^dag)^-1, from a Cholesky factor: no noise is added to that of the field,
    and nothing is shared with :class:`ChiralCondensate`'s solver.

    Args:
        lattice: even extents.
        group: gauge group.
        mass: positive bare mass.
        boundary: phase of each direction; antiperiodic in time by default.

    Raises:
        InputError: for a mass that is not positive, or a lattice that is odd or too large.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((2, 2)), SU2()
        >>> observable = DenseCondensate(lattice, group, mass=0.5)
        >>> observable.measure(group.cold(lattice, 1), torch.Generator())["chiral_condensate"]
        tensor([0.8000], dtype=torch.float64)
    """

    def __init__(
        self, lattice: Lattice, group: FieldSpace, mass: float, boundary: Sequence[int] | None = None
    ) -> None:
        if not 0 < mass < float("inf"):
            raise InputError(f"the condensate's mass must be positive and finite, got mass={mass}")
        self.operator = DenseStaggeredOperator(lattice, group, boundary)
        self.lattice, self.mass = lattice, float(mass)

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``; raises ConvergenceError for links that are not finite."""
        operator = self.operator
        with torch.no_grad():
            factor, _ = operator.factor(operator.hops(operator.group.pack(field)), self.mass)
            trace = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2).real.sum(1)
        return {"chiral_condensate": 2 * self.mass / self.lattice.volume * trace}
