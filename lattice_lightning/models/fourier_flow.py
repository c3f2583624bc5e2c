"""Linear flows of scalar fields: one factor a mode, or one for all."""

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from lattice_lightning.actions import free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.coupling import scalar_space
from lattice_lightning.models.flow import Flow

__all__ = ["FourierFlow", "Scaling", "momentum_orbits"]


def momentum_orbits(lattice: Lattice) -> Tensor:
    """Number of the orbit of each momentum under the lattice's point group, integers ``[*lattice]``.

    The group holds reflections of every axis and exchanges of axes of equal extent; orbits are numbered
    from zero (the zero mode).

    Example:
        >>> momentum_orbits(Lattice((4, 4))).tolist()
        [[0, 1, 2, 1], [1, 3, 4, 3], [2, 4, 5, 4], [1, 3, 4, 3]]
    """
    return _orbits(lattice).clone()


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _orbits(lattice: Lattice) -> Tensor:
    k = lattice.coordinates()
    extents = torch.tensor(lattice.shape).reshape(-1, *[1] * lattice.ndim)
    k = torch.minimum(k, extents - k)
    for extent in set(lattice.shape):
        axes = [mu for mu, other in enumerate(lattice.shape) if other == extent]
        k[axes] = k[axes].sort(dim=0).values
    code = torch.zeros(lattice.shape, dtype=torch.int64)
    for mu, extent in enumerate(lattice.shape):
        code = code * extent + k[mu]
    return torch.unique(code, return_inverse=True)[1]


class FourierFlow(Flow):
    """phi(p) -> a(p) phi(p), a > 0, one parameter log a for each orbit of momenta.

    Commutes with the lattice's whole symmetry group and with rotations of the components. With
    a(p) = 1/sqrt K(p) it takes white noise to the free field exactly. It belongs to one lattice.

    Args:
        lattice: the lattice.
        space: the real line.
        m2: start at the free field of this squared mass, in the convention of :class:`.Phi4`; None for
            the identity.

    Raises:
        InputError: for a gauge field, or m2 <= 0.

    Example:
        >>> flow = FourierFlow(Lattice((4, 4)), m2=1.0)
        >>> z = torch.ones(1, 4, 4, dtype=torch.float64)
        >>> bool(torch.allclose(flow(z)[0], z / 2**0.5))
        True
    """

    symmetries: tuple[str, ...] = ("translations", "reflections", "axis_permutations", "z2", "rotations")

    def __init__(self, lattice: Lattice, space: FieldSpace | None = None, m2: float | None = None) -> None:
        space = scalar_space(space, "FourierFlow")
        super().__init__(lattice, space)
        n_orbits = int(momentum_orbits(lattice).max()) + 1
        self.log_a = nn.Parameter(torch.zeros(n_orbits, dtype=torch.float64))
        if m2 is not None:
            if not m2 > 0:
                raise InputError(f"the free field needs m2 > 0, got {m2}")
            self.solve(free_kernel(lattice, m2))

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError for any lattice but its own: its parameters are factors of that one's modes."""
        if lattice.shape != self.lattice.shape:
            raise InputError(
                f"a Fourier flow holds one factor for each momentum of {self.lattice.shape} and cannot run "
                f"on {lattice.shape}; solve or train it there"
            )

    def solve(self, kernel: Tensor) -> None:
        """Set a(p) = 1/sqrt K(p): exact for the action sum_p K(p) |phi(p)|^2 / 2V from unit Gaussians.

        Args:
            kernel: K(p) > 0, ``[*lattice]``, with the symmetries of the lattice.

        Raises:
            InputError: for another shape, a kernel that is not positive, or one without the symmetries.
        """
        if tuple(kernel.shape) != self.lattice.shape or not bool((kernel > 0).all()):
            raise InputError(
                f"the kernel must be positive and of shape {self.lattice.shape}, got shape "
                f"{tuple(kernel.shape)}, smallest value {float(kernel.min()):.3g}"
            )
        orbits = momentum_orbits(self.lattice).flatten()
        values = kernel.detach().to("cpu", torch.float64).flatten()
        mean = torch.zeros(self.log_a.shape, dtype=torch.float64).index_add(0, orbits, values)
        mean = mean / torch.bincount(orbits)
        if not torch.allclose(mean[orbits], values, rtol=1e-10):
            raise InputError("the kernel must not change under reflections and exchanges of equal axes")
        with torch.no_grad():
            self.log_a.copy_(-0.5 * mean.log())

    def _log_factors(self, field: Tensor) -> Tensor:
        orbits = momentum_orbits(self.lattice).to(field.device)
        # by index_select: indexing by a tensor has a slow backward pass
        return self.log_a.index_select(0, orbits.flatten()).reshape(orbits.shape)

    def _apply_factors(self, field: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        log_a = sign * self._log_factors(field)
        vector = cast(RealLine, self.space).n_components
        axes = tuple(range(1, 1 + self.lattice.ndim))
        half = log_a[..., : self.lattice.shape[-1] // 2 + 1].exp().to(field.dtype)
        modes = torch.fft.rfftn(field, dim=axes) * (half if vector is None else half.unsqueeze(-1))
        mapped = torch.fft.irfftn(modes, s=self.lattice.shape, dim=axes)
        return mapped, ((vector or 1) * log_a.sum()).to(field.dtype).expand(field.shape[0])

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply the modes."""
        return self._apply_factors(field, 1.0)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Divide them."""
        return self._apply_factors(field, -1.0)


class Scaling(Flow):
    """phi -> exp(log_scale) phi, one parameter: fits the width before anything else has to.

    Args:
        lattice: the lattice.
        space: the real line.
        scale: start, positive.
    """

    symmetries: tuple[str, ...] = ("translations", "reflections", "axis_permutations", "z2", "rotations")

    def __init__(self, lattice: Lattice, space: FieldSpace | None = None, scale: float = 1.0) -> None:
        super().__init__(lattice, scalar_space(space, "Scaling"))
        if not scale > 0:
            raise InputError(f"a scale must be positive, got {scale}")
        self.log_scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64).log())

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply."""
        log_scale = self.log_scale.to(field.dtype)
        return field * log_scale.exp(), (field[0].numel() * log_scale).expand(field.shape[0])

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Divide."""
        log_scale = self.log_scale.to(field.dtype)
        return field * (-log_scale).exp(), (-field[0].numel() * log_scale).expand(field.shape[0])
