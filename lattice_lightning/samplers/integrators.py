"""Symplectic, reversible integrators with several time scales.

A scheme is the palindrome of its kicks (momentum updates, in units of the step) and drifts. Kicks
that meet at the border of two steps are merged, so leapfrog costs one force a step, Omelyan's
second-order scheme two and the fourth-order scheme five.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import Group

__all__ = ["SCHEMES", "Level", "LinkMotion", "integrate"]

_LAMBDA = 0.1931833275037836
_R = (0.08398315262876693, 0.2539785108410595, 0.6822365335719091, -0.03230286765269967)

#: kicks and drifts of one step: leapfrog; cond-mat/0203438 eq. 31 (second order, minimal norm);
#: cond-mat/0203438 eq. 63 (fourth order, five forces, velocity version)
SCHEMES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "leapfrog": ((0.5, 0.5), (1.0,)),
    "omelyan2": ((_LAMBDA, 1 - 2 * _LAMBDA, _LAMBDA), (0.5, 0.5)),
    "omelyan4": (
        (_R[0], _R[2], 0.5 - _R[0] - _R[2], 0.5 - _R[0] - _R[2], _R[2], _R[0]),
        (_R[1], _R[3], 1 - 2 * (_R[1] + _R[3]), _R[3], _R[1]),
    ),
}

Force = Callable[[Tensor], Tensor]


class Mover(Protocol):
    """What moves a field; every field space does."""

    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """The field moved along algebra coefficients."""
        ...


@dataclass(frozen=True)
class LinkMotion:
    """Moves links in their group's layout of molecular dynamics, packed coefficients."""

    group: Group

    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) U."""
        return self.group.move(field, omega)


@dataclass(frozen=True)
class Level:
    """One time scale: some terms of the action, a scheme and a number of steps.

    Args:
        n_steps: steps across the interval of the level outside (the trajectory for the first).
        scheme: name in ``SCHEMES``.
        terms: names of the action's terms kicked here; None for all.

    Raises:
        InputError: for an unknown scheme or less than one step.
    """

    n_steps: int
    scheme: str = "omelyan2"
    terms: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check scheme and number of steps."""
        if self.scheme not in SCHEMES:
            raise InputError(
                f"unknown integrator {self.scheme!r}: expected one of {', '.join(SCHEMES)}"
            )
        if int(self.n_steps) != self.n_steps or self.n_steps < 1:
            raise InputError(f"an integrator needs at least one step, got n_steps={self.n_steps}")
        if self.terms is not None:
            object.__setattr__(self, "terms", tuple(self.terms))


def integrate(
    space: Mover,
    field: Tensor,
    momentum: Tensor,
    levels: Sequence[tuple[Level, Force]],
    length: float,
) -> tuple[Tensor, Tensor]:
    """Molecular dynamics over ``length``: dU/dt = i p_a T_a U, dp_a/dt = -dS/dw_a.

    Args:
        space: what the field lives on.
        field: start of the trajectory, not modified.
        momentum: its momentum.
        levels: outermost time scale first, each with the force of its terms.
        length: trajectory length; negative runs backwards.
    """
    level, force = levels[0]
    kicks, drifts = SCHEMES[level.scheme]
    step = length / level.n_steps
    with torch.no_grad():
        momentum = torch.sub(momentum, force(field), alpha=kicks[0] * step)
        for n in range(level.n_steps):
            for k, drift in enumerate(drifts):
                if len(levels) > 1:
                    field, momentum = integrate(space, field, momentum, levels[1:], drift * step)
                else:
                    field = space.evolve(field, drift * step * momentum)
                kick = kicks[k + 1]
                if k == len(drifts) - 1 and n < level.n_steps - 1:
                    kick += kicks[0]
                momentum = torch.sub(momentum, force(field), alpha=kick * step)
    return field, momentum
