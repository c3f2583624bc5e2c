"""Observables of scalar fields."""

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["ScalarMoments"]


class ScalarMoments(Observable):
    """``phi2``: mean of phi^2; ``magnetisation_squared``: V M^2 with M the mean of phi.

    Args:
        lattice: the lattice.
        space: the real line, where it is given.

    Raises:
        InputError: for a gauge field.
    """

    def __init__(self, lattice: Lattice, space: FieldSpace | None = None) -> None:
        if space is not None and not isinstance(space, RealLine):
            raise InputError(f"scalar moments need a real scalar field, got a field of {space.name}")
        self.lattice = lattice

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        flat = field.flatten(1)
        return {
            "phi2": flat.square().mean(1),
            "magnetisation_squared": self.lattice.volume * flat.mean(1).square(),
        }
