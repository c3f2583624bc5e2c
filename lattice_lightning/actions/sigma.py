"""The linear O(N) model: scalar fields of several components."""

import torch
from torch import Tensor

from lattice_lightning.actions.base import Action, Aux
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice

__all__ = ["ONPhi4"]


class ONPhi4(Action):
    """phi^4 theory of N components, symmetric under O(N); :class:`.Phi4` at N = 1.

    S = sum_n [ m2 phi.phi + lam (phi.phi)^2 + sum_mu (2 phi.phi - 2 phi(n).phi(n+mu)) ].

    Args:
        lattice: the lattice.
        n_components: number N of real components, fields ``[batch, *lattice, N]``.
        m2: squared bare mass, may be negative for lam > 0.
        lam: quartic coupling, >= 0.
        space: the real line of N components (default).

    Raises:
        InputError: when the action is not bounded from below, or for another field.

    Example:
        >>> action = ONPhi4(Lattice((4, 4)), n_components=2, m2=1.0, lam=1.0)
        >>> action.value(torch.ones(1, 4, 4, 2, dtype=torch.float64), {})
        tensor([96.], dtype=torch.float64)
    """

    def __init__(
        self, lattice: Lattice, n_components: int, m2: float, lam: float, space: FieldSpace | None = None
    ) -> None:
        if n_components < 1:
            raise InputError(f"O(N) needs n_components >= 1, got {n_components}")
        if space is not None and not isinstance(space, RealLine):
            raise InputError(f"O(N) is a theory of real scalars, got the group {space.name}")
        if space is not None and space.n_components != n_components:
            raise InputError(
                f"O({n_components}) needs a field of {n_components} components, got a real line with "
                f"n_components={space.n_components}"
            )
        if lam < 0 or (lam == 0 and m2 <= 0):
            raise InputError(
                f"O(N) with lam={lam}, m2={m2} is not bounded from below; "
                "use lam > 0, or lam = 0 with m2 > 0"
            )
        self.lattice, self.space = lattice, space or RealLine(n_components)
        self.n_components, self.m2, self.lam = int(n_components), float(m2), float(lam)

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``."""
        self.space.check_field(field, self.lattice)
        square = field.square().sum(-1)
        local = (self.m2 + 2 * self.lattice.ndim) * square + self.lam * square.square()
        ahead = torch.stack([self.lattice.shift(field, mu) for mu in range(self.lattice.ndim)]).sum(0)
        return (local - 2 * (field * ahead).sum(-1)).flatten(1).sum(1)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dphi, the field's shape."""
        both = [self.lattice.shift(field, mu, s) for mu in range(self.lattice.ndim) for s in (1, -1)]
        square = field.square().sum(-1, keepdim=True)
        local = 2 * (self.m2 + 2 * self.lattice.ndim) + 4 * self.lam * square
        return local * field - 2 * torch.stack(both).sum(0)
