"""What SU(2) and SU(N) share: matrix links, unitarity, gauge transformations."""

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups.base import Group
from lattice_lightning.lattice import Lattice

__all__ = ["MatrixGroup"]


class MatrixGroup(Group):
    """SU(N) as complex matrices ``[batch, mu, *lattice, N, N]``."""

    def __init__(self, n_colors: int) -> None:
        if n_colors < 2:
            raise InputError(f"SU(N) needs N >= 2, got {n_colors}; for one colour use U1()")
        self.n_colors = n_colors
        self.n_generators = n_colors**2 - 1
        self.name = f"SU({n_colors})"

    def defect(self, field: Tensor) -> Tensor:
        """Largest entry of |U^dag U - 1| or |det U - 1| for each chain, ``[batch]``."""
        eye = torch.eye(self.n_colors, dtype=field.dtype, device=field.device)
        unitarity = (field.mH @ field - eye).abs().flatten(1).amax(1)
        determinant = (torch.linalg.det(field) - 1).abs().reshape(field.shape[0], -1).amax(1)
        return torch.nan_to_num(torch.maximum(unitarity, determinant), nan=float("inf"))

    def cold(self, lattice: Lattice, n_chains: int, device: torch.device | str = "cpu") -> Tensor:
        """Unit links."""
        eye = torch.eye(self.n_colors, dtype=torch.complex128, device=device)
        shape = (n_chains, lattice.ndim, *lattice.shape, self.n_colors, self.n_colors)
        return eye.expand(shape).clone()

    def site_shape(self, field: Tensor) -> tuple[int, ...]:
        """Shape without the matrix axes."""
        return tuple(field.shape[:-2])

    def transform(self, links: Tensor, rotation: Tensor, lattice: Lattice) -> Tensor:
        """U_mu(n) -> G(n) U_mu(n) G(n+mu)^dag."""
        shifted = torch.stack([lattice.shift(rotation, mu) for mu in range(lattice.ndim)], 1)
        return rotation.unsqueeze(1) @ links @ shifted.mH
