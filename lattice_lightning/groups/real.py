"""The real line: scalar fields, whose algebra is themselves."""

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups.base import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["RealLine"]


class RealLine(FieldSpace):
    """Scalar fields ``[batch, *lattice]`` (or ``[batch, *lattice, n]`` for n components).

    Args:
        n_components: number of real components a site; None for a field without that axis.

    Example:
        >>> RealLine().cold(Lattice((4, 4)), n_chains=2).shape
        torch.Size([2, 4, 4])
    """

    name = "R"

    def __init__(self, n_components: int | None = None) -> None:
        if n_components is not None and n_components < 1:
            raise InputError(f"a scalar field has at least one component, got n_components={n_components}")
        self.n_components = n_components
        self.name = "R" if n_components is None else f"R^{n_components}"

    def _shape(self, lattice: Lattice, n_chains: int) -> tuple[int, ...]:
        tail = () if self.n_components is None else (self.n_components,)
        return (n_chains, *lattice.shape, *tail)

    def momentum(self, field: Tensor, rng: torch.Generator) -> Tensor:
        """Standard normal momenta of the field's shape."""
        return torch.randn(field.shape, generator=rng, dtype=field.dtype, device=field.device)

    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """Field + omega."""
        return field + omega

    def reunitarise(self, field: Tensor) -> Tensor:
        """Nothing to do."""
        return field

    def defect(self, field: Tensor) -> Tensor:
        """Zero, or infinity where a value is not finite."""
        finite = torch.isfinite(field).flatten(1).all(1)
        return torch.where(finite, 0.0, float("inf")).to(field.dtype)

    def cold(self, lattice: Lattice, n_chains: int, device: torch.device | str = "cpu") -> Tensor:
        """Zero field."""
        return torch.zeros(self._shape(lattice, n_chains), dtype=torch.float64, device=device)

    def hot(self, lattice: Lattice, n_chains: int, rng: torch.Generator) -> Tensor:
        """Unit normal field."""
        return torch.randn(
            self._shape(lattice, n_chains), generator=rng, dtype=torch.float64, device=rng.device
        )

    def check_field(self, field: Tensor, lattice: Lattice) -> None:
        """Raise InputError unless the tensor is a real field on this lattice."""
        expected = self._shape(lattice, field.shape[0] if field.ndim else 0)
        if tuple(field.shape) != expected or field.is_complex():
            raise InputError(
                f"a scalar field on the lattice {lattice.shape} needs a real tensor of shape "
                f"[batch, {', '.join(map(str, expected[1:]))}], got {field.dtype} "
                f"{list(field.shape)}"
            )
