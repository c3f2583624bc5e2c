"""Observables of scalar fields."""

import torch
from torch import Tensor

from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.base import Observable

__all__ = ["ScalarMoments"]


class ScalarMoments(Observable):
    """``phi2``: mean of phi^2; ``magnetisation_squared``: V M^2 with M the mean of phi."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice

    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values ``[batch]``."""
        flat = field.flatten(1)
        return {
            "phi2": flat.square().mean(1),
            "magnetisation_squared": self.lattice.volume * flat.mean(1).square(),
        }
