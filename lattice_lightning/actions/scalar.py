"""Scalar field theory: the simplest action, and the pattern for others without gauge fields."""

import torch
from torch import Tensor

from lattice_lightning.actions.base import Action, Aux
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice

__all__ = ["Phi4"]


class Phi4(Action):
    """phi^4 theory without the factor 1/2 (1904.12072).

    S = sum_n [ m2 phi^2 + lam phi^4 + sum_mu (2 phi^2 - phi(n) phi(n+mu) - phi(n) phi(n-mu)) ].
    At lam = 0 the propagator is G(p) = 1 / [2 (m2 + phat^2)].

    Args:
        lattice: the lattice.
        m2: squared bare mass, may be negative for lam > 0.
        lam: quartic coupling, >= 0.
        space: the real line (default).

    Raises:
        InputError: when the action is not bounded from below.

    Example:
        >>> action = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)
        >>> action.value(torch.zeros(2, 4, 4, dtype=torch.float64), {})
        tensor([0., 0.], dtype=torch.float64)
    """

    def __init__(
        self, lattice: Lattice, m2: float, lam: float, space: FieldSpace | None = None
    ) -> None:
        if space is not None and not isinstance(space, RealLine):
            raise InputError(f"phi^4 is a theory of real scalars, got the group {space.name}")
        if lam < 0 or (lam == 0 and m2 <= 0):
            raise InputError(
                f"phi^4 with lam={lam}, m2={m2} is not bounded from below; "
                "use lam > 0, or lam = 0 with m2 > 0"
            )
        self.lattice, self.space = lattice, space or RealLine()
        self.m2, self.lam = float(m2), float(lam)

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``."""
        self.space.check_field(field, self.lattice)
        square = field.square()
        local = (self.m2 + 2 * self.lattice.ndim) * square + self.lam * square.square()
        neighbours = torch.stack(
            [self.lattice.shift(field, mu) for mu in range(self.lattice.ndim)]
        ).sum(0)
        return (local - 2 * field * neighbours).flatten(1).sum(1)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dphi, the field's shape."""
        both = [
            self.lattice.shift(field, mu, s) for mu in range(self.lattice.ndim) for s in (1, -1)
        ]
        neighbours = torch.stack(both).sum(0)
        return (
            2 * (self.m2 + 2 * self.lattice.ndim) * field
            + 4 * self.lam * field.pow(3)
            - 2 * neighbours
        )
