"""Densities that flows start from: Gaussian, free field, Haar."""

from math import log, pi

import torch
from torch import Tensor

from lattice_lightning.actions import Action, GaussianAction, WilsonGauge, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.flow import Prior

__all__ = ["FreeFieldPrior", "GaussianPrior", "HaarPrior"]


def _real_line(space: FieldSpace | None, what: str) -> RealLine:
    if space is None:
        return RealLine()
    if not isinstance(space, RealLine):
        raise InputError(f"{what} is a density of real scalars, got a field of {space.name}")
    return space


class GaussianPrior(Prior):
    """Independent Gaussians of width ``sigma`` at every site.

    Args:
        lattice: the lattice.
        space: the real line, of one or several components.
        sigma: width, positive.

    Example:
        >>> prior = GaussianPrior(Lattice((4, 4)))
        >>> prior.sample(3, torch.Generator().manual_seed(1)).shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, lattice: Lattice, space: FieldSpace | None = None, sigma: float = 1.0) -> None:
        super().__init__(lattice, _real_line(space, "a Gaussian prior"))
        if not sigma > 0:
            raise InputError(f"the width of a Gaussian prior must be positive, got sigma={sigma}")
        self.sigma = float(sigma)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields."""
        return self.sigma * self.space.hot(self.lattice, n, rng)

    def log_prob(self, field: Tensor) -> Tensor:
        """Normalised log density, ``[batch]``."""
        flat = field.flatten(1)
        norm = flat.shape[1] * (log(self.sigma) + 0.5 * log(2 * pi))
        return -0.5 * (flat / self.sigma).square().sum(1) - norm

    def action(self) -> Action:
        """S_0 = sum phi^2 / (2 sigma^2), of one component."""
        kernel = torch.full(self.lattice.shape, self.sigma**-2, dtype=torch.float64)
        return GaussianAction(self.lattice, kernel)


class FreeFieldPrior(Prior):
    """The free field with <phi phi>(p) = 1 / [2 (m2 + phat^2)], one component.

    Args:
        lattice: the lattice.
        m2: squared mass, positive.
        space: the real line.
    """

    def __init__(self, lattice: Lattice, m2: float = 1.0, space: FieldSpace | None = None) -> None:
        super().__init__(lattice, _real_line(space, "a free-field prior"))
        if not m2 > 0:
            raise InputError(f"the free field needs m2 > 0, got {m2}")
        self.m2 = float(m2)

    def action(self) -> GaussianAction:
        """The free action."""
        return GaussianAction(self.lattice, free_kernel(self.lattice, self.m2))

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields: white noise, filtered by 1 / sqrt K."""
        noise = RealLine().hot(self.lattice, n, rng)
        kernel = free_kernel(self.lattice, self.m2).to(noise)
        axes = tuple(range(1, 1 + self.lattice.ndim))
        return torch.fft.ifftn(torch.fft.fftn(noise, dim=axes) / kernel.sqrt(), dim=axes).real

    def log_prob(self, field: Tensor) -> Tensor:
        """Normalised log density, ``[batch]``."""
        action = self.action()
        return -action.value(field, {}) - action.log_z


class HaarPrior(Prior):
    """Independent Haar-distributed links: density one in the normalised Haar measure.

    Args:
        lattice: the lattice.
        group: gauge group.
    """

    def __init__(self, lattice: Lattice, group: FieldSpace) -> None:
        if not isinstance(group, Group):
            raise InputError(f"the Haar prior is a density of links, got a field of {group.name}")
        super().__init__(lattice, group)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields."""
        return self.space.hot(self.lattice, n, rng)

    def log_prob(self, field: Tensor) -> Tensor:
        """Zero, ``[batch]``."""
        real = field.real.dtype if field.is_complex() else field.dtype
        return torch.zeros(field.shape[0], dtype=real, device=field.device)

    def action(self) -> Action:
        """S_0 = 0."""
        return WilsonGauge(self.lattice, self.space, beta=0.0)
