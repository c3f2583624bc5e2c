"""Multiples of actions, and the way from one action to another that annealing takes."""

from math import isfinite

import torch
from torch import Tensor

from lattice_lightning.actions.base import Action, Aux, SumAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import Group

__all__ = ["MixedAction", "ScaledAction", "require_bosonic"]


def require_bosonic(action: Action, purpose: str) -> None:
    """Refuse actions that draw auxiliary fields (pseudofermions).

    Raises:
        InputError: naming the purpose and the fields.
    """
    cold = action.space.cold(action.lattice, 1)
    aux, _ = action.refresh(cold, torch.Generator().manual_seed(0))
    action.pop_iterations()
    if aux:
        raise InputError(
            f"{purpose} needs an action of the field alone, but {type(action).__name__} draws "
            f"{', '.join(sorted(aux))}; use an exact determinant, or HMC"
        )


class ScaledAction(Action):
    """c S for a number c; c = 0 costs nothing.

    Args:
        action: bosonic action S.
        factor: the number c, finite.

    Attributes:
        n_forces: forces of S evaluated since the action was made, of all chains at once.

    Raises:
        InputError: for another factor, or an action that draws pseudofermions, whose heat bath
            would be another one.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> half = ScaledAction(Phi4(Lattice((2, 2)), m2=1.0, lam=0.0), 0.5)
        >>> half.value(torch.ones(1, 2, 2, dtype=torch.float64), {})
        tensor([2.], dtype=torch.float64)
    """

    def __init__(self, action: Action, factor: float) -> None:
        if not isfinite(factor):
            raise InputError(f"an action is scaled by a finite number, got {factor}")
        require_bosonic(action, "scaling an action")
        self.action, self.factor, self.n_forces = action, float(factor), 0
        self.lattice, self.space = action.lattice, action.space

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """c S for each chain, ``[batch]``."""
        if self.factor == 0:
            return torch.zeros(field.shape[0], dtype=_real(field), device=field.device)
        return self.factor * self.action.value(field, aux, strict=strict)

    def energy(self, field: Tensor) -> Tensor:
        """c S for each chain, differentiable."""
        if self.factor == 0:
            return torch.zeros(field.shape[0], dtype=_real(field), device=field.device)
        return self.factor * self.action.energy(field)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """c dS/dw_a."""
        if self.factor == 0:
            if not isinstance(self.space, Group):
                return torch.zeros_like(field)
            shape = (*self.space.site_shape(field), self.space.n_generators)
            return torch.zeros(shape, dtype=_real(field), device=field.device)
        self.n_forces += 1
        return self.factor * self.action.force(field, aux, strict=strict)


def _real(field: Tensor) -> torch.dtype:
    return field.real.dtype if field.is_complex() else field.dtype


class MixedAction(SumAction):
    """S_c = (1 - c) S_0 + c S, from the start S_0 of annealing at c = 0 to its target S at c = 1.

    The terms are named ``prior`` and ``target``, for integrators with several time scales.

    Args:
        prior: S_0.
        target: S.
        fraction: c, from 0 to 1.

    Raises:
        InputError: for another fraction, pseudofermions, or actions on different fields.

    Example:
        >>> from lattice_lightning.actions import WilsonGauge
        >>> from lattice_lightning.groups import U1
        >>> from lattice_lightning.lattice import Lattice
        >>> weak, strong = (WilsonGauge(Lattice((4, 4)), U1(), beta) for beta in (4.0, 1.0))
        >>> links = U1().hot(weak.lattice, 1, torch.Generator().manual_seed(1))
        >>> mixed = MixedAction(strong, weak, 1 / 3).value(links, {})
        >>> torch.allclose(mixed, WilsonGauge(weak.lattice, U1(), 2.0).value(links, {}))
        True
    """

    def __init__(self, prior: Action, target: Action, fraction: float) -> None:
        if not 0 <= fraction <= 1:
            raise InputError(f"annealing goes from fraction 0 to 1, got {fraction}")
        target_term = ScaledAction(target, fraction)
        super().__init__({"prior": ScaledAction(prior, 1 - fraction), "target": target_term})
        self.fraction, self._target_term = float(fraction), target_term

    @property
    def n_forces(self) -> int:
        """Forces of the target evaluated since the action was made, of all chains at once."""
        return self._target_term.n_forces
