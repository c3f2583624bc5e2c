"""Gaussian scalar fields: free theories with any translation-invariant kernel."""

from math import log, pi

import torch
from torch import Tensor

from lattice_lightning.actions.base import Action, Aux
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import RealLine
from lattice_lightning.lattice import Lattice

__all__ = ["GaussianAction", "free_kernel"]


def free_kernel(lattice: Lattice, m2: float) -> Tensor:
    """K(p) = 2 (m2 + phat^2) of the free field in the convention of :class:`.Phi4`, ``[*lattice]``."""
    return 2 * (m2 + lattice.phat_squared())


class GaussianAction(Action):
    """S = 1/(2 V) sum_p K(p) |phi(p)|^2, with <phi phi>(p) = 1/K(p).

    Args:
        lattice: the lattice.
        kernel: K(p) > 0 with K(p) = K(-p), ``[*lattice]``, momenta as of ``torch.fft.fftn``.
        space: the real line; of several components, each has this action.

    Raises:
        InputError: for a kernel of another shape, or one that is not positive and even.

    Example:
        >>> lattice = Lattice((4, 4))
        >>> action = GaussianAction(lattice, free_kernel(lattice, m2=1.0))
        >>> action.value(torch.ones(1, 4, 4, dtype=torch.float64), {})
        tensor([16.], dtype=torch.float64)
    """

    def __init__(self, lattice: Lattice, kernel: Tensor, space: RealLine | None = None) -> None:
        if tuple(kernel.shape) != lattice.shape or not bool((kernel > 0).all()):
            raise InputError(
                f"the kernel of a Gaussian field must be positive and of shape {lattice.shape}, got shape "
                f"{tuple(kernel.shape)}, smallest value {float(kernel.min()):.3g}"
            )
        axes = tuple(range(lattice.ndim))
        mirrored = torch.roll(torch.flip(kernel, axes), [1] * lattice.ndim, axes)
        if not torch.allclose(mirrored, kernel, rtol=1e-8):
            raise InputError("the kernel of a real Gaussian field must have K(p) = K(-p)")
        real = space or RealLine()
        self.lattice, self.space, self.kernel = lattice, real, kernel
        self.n_components = real.n_components or 1

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``."""
        axes = tuple(range(1, 1 + self.lattice.ndim))
        modes = torch.fft.fftn(field, dim=axes)
        kernel = self._like(field)
        density = kernel * (modes.real.square() + modes.imag.square())
        return density.flatten(1).sum(1) / (2 * self.lattice.volume)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dphi = K phi, the field's shape."""
        axes = tuple(range(1, 1 + self.lattice.ndim))
        return torch.fft.ifftn(self._like(field) * torch.fft.fftn(field, dim=axes), dim=axes).real

    def _like(self, field: Tensor) -> Tensor:
        kernel = self.kernel.to(field)
        return kernel if field.ndim == self.lattice.ndim + 1 else kernel.unsqueeze(-1)

    @property
    def log_z(self) -> float:
        """log of the partition function, (V log 2 pi - sum_p log K) / 2."""
        one = 0.5 * (self.lattice.volume * log(2 * pi) - float(self.kernel.log().sum()))
        return one * self.n_components
