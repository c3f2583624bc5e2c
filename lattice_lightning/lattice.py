"""The hypercubic lattice: shape, shifts, parities, momenta; owns the axis convention.

Axes are (x, y, z, t), time last; direction ``mu`` is an axis index. Two layouts of a field exist:

* public: chains first, ``[batch, *lattice, ...]`` (links ``[batch, mu, *lattice, N, N]``);
* packed, inside hot loops only: components first and chains innermost,
  ``[*components, (mu,) *lattice, batch]``, so that the inner loop runs over chains.
"""

from dataclasses import dataclass
from math import pi, prod

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError

__all__ = ["Lattice"]


@dataclass(frozen=True)
class Lattice:
    """A periodic hypercubic lattice in two, three or four dimensions.

    Args:
        shape: extents (L_x, ..., L_t), each at least 2.

    Raises:
        InputError: when the number of dimensions or an extent is out of range.

    Example:
        >>> Lattice((4, 4, 4, 8)).volume
        512
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Normalise the shape and refuse impossible ones."""
        try:
            shape = tuple(int(extent) for extent in self.shape)
        except (TypeError, ValueError):
            raise InputError(
                f"lattice shape must be a sequence of integers like (4, 4, 4, 4), got {self.shape!r}"
            ) from None
        if shape != tuple(self.shape):
            raise InputError(f"lattice extents must be integers, got {self.shape!r}")
        if not 2 <= len(shape) <= 4 or min(shape) < 2:
            raise InputError(
                f"expected 2, 3 or 4 extents of at least 2 each, got {shape}; "
                "write for example lattice.shape=[4,4,4,4]"
            )
        object.__setattr__(self, "shape", shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions d."""
        return len(self.shape)

    @property
    def volume(self) -> int:
        """Number of sites."""
        return prod(self.shape)

    @property
    def n_planes(self) -> int:
        """Number of planes mu < nu."""
        return self.ndim * (self.ndim - 1) // 2

    def shift(self, field: Tensor, mu: int, steps: int = 1) -> Tensor:
        """Value at n + steps*mu, for a public field ``[batch, *lattice, ...]``."""
        return torch.roll(field, -steps, dims=1 + mu)

    def shift_packed(self, field: Tensor, mu: int, steps: int = 1) -> Tensor:
        """Value at n + steps*mu, for a packed field ``[..., *lattice, batch]``."""
        return torch.roll(field, -steps, dims=mu - self.ndim - 1)

    def direction_packed(self, links: Tensor, mu: int) -> Tensor:
        """Links of one direction, ``[*components, *lattice, batch]``, of packed links."""
        return links.select(-(self.ndim + 2), mu)

    def coordinates(self, device: torch.device | str = "cpu") -> Tensor:
        """Site coordinates, integers ``[d, *lattice]``."""
        axes = [torch.arange(extent, device=device) for extent in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def parity(self, device: torch.device | str = "cpu") -> Tensor:
        """0 on even and 1 on odd sites, ``[*lattice]``."""
        return self.coordinates(device).sum(0) % 2

    def momenta(self, device: torch.device | str = "cpu") -> Tensor:
        """Lattice momenta p_mu = 2 pi k / L_mu, ``[d, *lattice]``."""
        extents = torch.tensor(self.shape, dtype=torch.float64, device=device)
        return 2 * pi * self.coordinates(device).to(extents) / extents.reshape(-1, *[1] * self.ndim)

    def phat_squared(self, device: torch.device | str = "cpu") -> Tensor:
        """Squared lattice momenta sum_mu 4 sin^2(p_mu / 2), ``[*lattice]``."""
        return (2 * torch.sin(self.momenta(device) / 2)).square().sum(0)

    def require_even(self, why: str) -> None:
        """Refuse odd extents.

        Raises:
            InputError: naming the odd extent and what needs it even.
        """
        for mu, extent in enumerate(self.shape):
            if extent % 2:
                raise InputError(
                    f"{why} needs even extents, but extent {mu} of {self.shape} is {extent}; "
                    f"use {extent - 1} or {extent + 1}"
                )
