"""Densities that flows start from: Gaussian, free field, Haar."""

from math import log, pi
from typing import Self

import torch
from torch import Tensor, nn

from lattice_lightning.actions import Action, GaussianAction, WilsonGauge, free_kernel
from lattice_lightning.actions.scaled import ScaledAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.flow import Prior
from lattice_lightning.models.fourier_flow import momentum_orbits

__all__ = ["FreeFieldPrior", "GaussianFieldPrior", "GaussianPrior", "HaarPrior"]


def _real_line(space: FieldSpace | None, what: str) -> RealLine:
    if space is None:
        return RealLine()
    if not isinstance(space, RealLine):
        raise InputError(f"{what} is a density of real scalars, got a field of {space.name}")
    return space


def _one_component(space: FieldSpace | None, what: str) -> RealLine:
    line = _real_line(space, what)
    if line.n_components is not None:
        raise InputError(f"{what} has one component, got {line.name}; use GaussianPrior for several")
    return line


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
        """S_0 = sum phi^2 / (2 sigma^2)."""
        kernel = torch.full(self.lattice.shape, self.sigma**-2, dtype=torch.float64)
        assert isinstance(self.space, RealLine)
        return GaussianAction(self.lattice, kernel, self.space)


class FreeFieldPrior(Prior):
    """The free field with <phi phi>(p) = 1 / [2 (m2 + phat^2)], one component.

    Args:
        lattice: the lattice.
        m2: squared mass, positive.
        space: the real line.
    """

    def __init__(self, lattice: Lattice, m2: float = 1.0, space: FieldSpace | None = None) -> None:
        super().__init__(lattice, _one_component(space, "a free-field prior"))
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


class GaussianFieldPrior(Prior):
    """The Gaussian field with <phi phi>(p) = 1/K(p), one number log K for each orbit of momenta.

    :class:`.ContinuityRegression` sets it; ``trainable`` lets a method that follows gradients move it.
    On another volume K is interpolated: log [K(p) / (m2 + phat^2)] linearly in phat^2, from means over
    momenta of equal phat^2.

    Args:
        lattice: the lattice.
        m2: start at the free field of this squared mass.
        space: the real line.
        trainable: whether log K is a parameter.

    Example:
        >>> prior = GaussianFieldPrior(Lattice((4, 4)), m2=1.0)
        >>> field = prior.sample(3, torch.Generator().manual_seed(1))
        >>> torch.allclose(prior.log_prob(field), FreeFieldPrior(prior.lattice, 1.0).log_prob(field))
        True
    """

    log_kernel: Tensor

    def __init__(
        self, lattice: Lattice, m2: float = 1.0, space: FieldSpace | None = None, trainable: bool = False
    ) -> None:
        super().__init__(lattice, _one_component(space, "a Gaussian-field prior"))
        if not m2 > 0:
            raise InputError(f"the free field needs m2 > 0, got {m2}")
        self.m2 = float(m2)
        start = torch.zeros(int(momentum_orbits(lattice).max()) + 1, dtype=torch.float64)
        if trainable:
            self.log_kernel = nn.Parameter(start)
        else:
            self.register_buffer("log_kernel", start)
        self.set_kernel(free_kernel(lattice, m2))

    @property
    def kernel(self) -> Tensor:
        """K(p), ``[*lattice]``."""
        orbits = momentum_orbits(self.lattice).to(self.log_kernel.device)
        return self.log_kernel.index_select(0, orbits.flatten()).reshape(orbits.shape).exp()

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor) -> None:
        """Set K(p) > 0, ``[*lattice]``, with the symmetries of the lattice.

        Raises:
            InputError: for another shape, a kernel that is not positive, or one without the symmetries.
        """
        if tuple(kernel.shape) != self.lattice.shape or not bool((kernel > 0).all()):
            raise InputError(
                f"the kernel of a Gaussian field must be positive and of shape {self.lattice.shape}, "
                f"got shape {tuple(kernel.shape)}, smallest value {float(kernel.min()):.3g}"
            )
        logs = kernel.detach().to("cpu", torch.float64).log().flatten()
        orbits = momentum_orbits(self.lattice).flatten()
        mean = torch.zeros(self.log_kernel.shape, dtype=torch.float64).index_add(0, orbits, logs)
        mean = mean / torch.bincount(orbits)
        if not torch.allclose(mean[orbits], logs, rtol=0, atol=1e-8):
            raise InputError("the kernel must not change under reflections and exchanges of equal axes")
        self.log_kernel.copy_(mean)

    def action(self) -> GaussianAction:
        """The Gaussian action, with the kernel as it is now."""
        return GaussianAction(self.lattice, self.kernel.detach())

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields: white noise, filtered by 1 / sqrt K; differentiable by log K."""
        noise, axes = RealLine().hot(self.lattice, n, rng), tuple(range(1, 1 + self.lattice.ndim))
        half = self.kernel.to(noise)[..., : self.lattice.shape[-1] // 2 + 1]
        modes = torch.fft.rfftn(noise, dim=axes) / half.sqrt()
        return torch.fft.irfftn(modes, s=self.lattice.shape, dim=axes)

    def log_prob(self, field: Tensor) -> Tensor:
        """Normalised log density, ``[batch]``; differentiable by field and log K."""
        kernel, axes = self.kernel.to(field), tuple(range(1, 1 + self.lattice.ndim))
        modes = torch.fft.fftn(field, dim=axes)
        density = kernel * (modes.real.square() + modes.imag.square())
        norm = 0.5 * (self.lattice.volume * log(2 * pi) - kernel.log().sum())
        return -density.flatten(1).sum(1) / (2 * self.lattice.volume) - norm

    def on(self, lattice: Lattice) -> Self:
        """The prior on another volume, of the same dimension, with K interpolated in phat^2."""
        copy = super().on(lattice)
        if lattice == self.lattice:
            return copy
        if lattice.ndim != self.lattice.ndim:
            raise InputError(f"a kernel on {self.lattice.shape} cannot be interpolated to {lattice.shape}")
        phat2, place = torch.unique(self.lattice.phat_squared().round(decimals=9), return_inverse=True)
        ratio = (self.kernel.detach().cpu() / (self.m2 + self.lattice.phat_squared())).log()
        sums = torch.zeros_like(phat2).index_add(0, place.flatten(), ratio.flatten())
        values = sums / torch.bincount(place.flatten())
        wanted = lattice.phat_squared()
        right = torch.searchsorted(phat2, wanted).clamp(1, len(phat2) - 1)
        share = ((wanted - phat2[right - 1]) / (phat2[right] - phat2[right - 1])).clamp(0, 1)
        interpolated = values[right - 1] * (1 - share) + values[right] * share
        start = torch.zeros(int(momentum_orbits(lattice).max()) + 1).to(self.log_kernel)
        if isinstance(self.log_kernel, nn.Parameter):
            copy.log_kernel = nn.Parameter(start)
        else:
            copy.log_kernel = start
        copy.set_kernel(interpolated.exp() * (self.m2 + wanted))
        return copy


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
        return ScaledAction(WilsonGauge(self.lattice, self.space, beta=1.0), 0.0)
