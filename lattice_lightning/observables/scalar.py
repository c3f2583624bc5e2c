"""Observables of scalar fields, of one or several components."""

from math import pi

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["ScalarMoments", "ScalarPropagator"]


def _require_scalar(space: FieldSpace | None, what: str) -> None:
    if space is not None and not isinstance(space, RealLine):
        raise InputError(f"{what} need a real scalar field, got a field of {space.name}")


class ScalarMoments(Observable):
    """``phi2``: mean of phi.phi; ``magnetisation_squared``: V M.M with M the mean of phi.

    Fields of N components, ``[batch, *lattice, N]``, are summed over them.

    Args:
        lattice: the lattice.
        space: the real line, where it is given.

    Raises:
        InputError: for a gauge field.
    """

    def __init__(self, lattice: Lattice, space: FieldSpace | None = None) -> None:
        _require_scalar(space, "scalar moments")
        self.lattice = lattice

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        volume = self.lattice.volume
        sites = field.reshape(field.shape[0], volume, -1)
        return {
            "phi2": sites.square().sum((1, 2)) / volume,
            "magnetisation_squared": volume * sites.mean(1).square().sum(1),
        }


class ScalarPropagator(Observable):
    """``propagator_k``: |phi(p)|^2 / V at p = 2 pi k / L along an axis, summed over components.

    Its mean is the propagator G(p), N / [2 (m2 + phat^2)] for N free components; the susceptibility
    is k = 0 and the second-moment correlation length follows from k = 0 and 1.

    Args:
        lattice: the lattice.
        n_momenta: number of momenta, k = 0 ... n_momenta - 1.
        axis: direction of the momenta; the last (time) by default.
        space: the real line, where it is given.

    Raises:
        InputError: for a gauge field, or more momenta than the axis has (L/2 + 1).
    """

    def __init__(
        self, lattice: Lattice, n_momenta: int = 2, axis: int = -1, space: FieldSpace | None = None
    ) -> None:
        _require_scalar(space, "propagators")
        if not -lattice.ndim <= axis < lattice.ndim:
            raise InputError(f"axis {axis} does not exist on the lattice {lattice.shape}")
        self.lattice, self.n_momenta, self.axis = lattice, n_momenta, axis % lattice.ndim
        extent = lattice.shape[self.axis]
        if not 1 <= n_momenta <= extent // 2 + 1:
            raise InputError(
                f"an axis of extent {extent} has 1 to {extent // 2 + 1} different momenta, got {n_momenta}"
            )

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        extent = self.lattice.shape[self.axis]
        slices = field.movedim(1 + self.axis, 1)
        sites = slices.reshape(field.shape[0], extent, self.lattice.volume // extent, -1)
        planes = sites.sum(2)
        x = torch.arange(extent, dtype=field.dtype, device=field.device)
        values = {}
        for k in range(self.n_momenta):
            phase = 2 * pi * k * x / extent
            modes = [torch.einsum("bxa,x->ba", planes, wave) for wave in (phase.cos(), phase.sin())]
            total = torch.stack(modes).square().sum((0, 2))
            values[f"propagator_{k}"] = total / self.lattice.volume
        return values
