"""U(1): links as angles in (-pi, pi], packed as (cos, sin)."""

from math import pi

import torch
from torch import Tensor

from lattice_lightning.groups.base import Group
from lattice_lightning.groups.product import complex_product, product
from lattice_lightning.lattice import Lattice

__all__ = ["U1"]


class U1(Group):
    """U(1) with T = 1: U = exp(i theta), and momenta are conjugate to the angle.

    Example:
        >>> U1().cold(Lattice((4, 4)), n_chains=2).shape
        torch.Size([2, 2, 4, 4])
    """

    name = "U(1)"
    n_colors = 1
    n_generators = 1
    n_component_dims = 3

    def pack(self, links: Tensor) -> Tensor:
        """Angles ``[batch, ...]`` to ``[2, 1, 1, ..., batch]``."""
        angle = links.movedim(0, -1)
        return torch.stack([angle.cos(), angle.sin()])[:, None, None].contiguous()

    def unpack(self, packed: Tensor) -> Tensor:
        """Angles of packed links."""
        angles = torch.atan2(packed[1, 0, 0], packed[0, 0, 0]).movedim(-1, 0).contiguous()
        # atan2 of a sine of -0 is -pi
        return self.reunitarise(angles)

    def to_matrix(self, packed: Tensor) -> Tensor:
        """The packed layout is the matrix layout."""
        return packed

    def to_motion(self, links: Tensor) -> Tensor:
        """Angles ``[mu, *lattice, batch]``."""
        return links.movedim(0, -1).contiguous()

    def from_motion(self, links: Tensor) -> Tensor:
        """Angles ``[batch, mu, *lattice]``, not wrapped."""
        return links.movedim(-1, 0).contiguous()

    def motion_links(self, links: Tensor) -> Tensor:
        """Cosine and sine."""
        return torch.stack([links.cos(), links.sin()])[:, None, None]

    def move(self, links: Tensor, omega: Tensor) -> Tensor:
        """Angle + w, not wrapped."""
        return links + omega[0]

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a b."""
        return product(a, b, complex_product)

    def mul_nh(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a b^dag."""
        return product(a, b, complex_product, adj_b=True)

    def mul_hn(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a^dag b."""
        return product(a, b, complex_product, adj_a=True)

    def adjoint(self, a: Tensor) -> Tensor:
        """Complex conjugate."""
        return torch.stack([a[0], -a[1]])

    def re_trace(self, a: Tensor) -> Tensor:
        """Real part."""
        return a[0, 0, 0]

    def im_trace(self, a: Tensor) -> Tensor:
        """Imaginary part."""
        return a[1, 0, 0]

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Re(a b*)."""
        return (a * b).sum((0, 1, 2))

    def exp(self, omega: Tensor) -> Tensor:
        """exp(i w)."""
        return torch.stack([omega[0].cos(), omega[0].sin()])[:, None, None]

    def project(self, a: Tensor) -> Tensor:
        """Imaginary part: [a]_TA = i Im a."""
        return a[1, 0]

    def algebra_gradient(self, a: Tensor, gradient: Tensor) -> Tensor:
        """d/dw S(exp(i w) a)."""
        return (gradient[1] * a[0] - gradient[0] * a[1])[0]

    def haar(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Uniform angles ``[*shape]``."""
        unit = torch.rand(*shape, generator=rng, dtype=torch.float64, device=rng.device)
        return pi - 2 * pi * unit

    def transform(self, links: Tensor, rotation: Tensor, lattice: Lattice) -> Tensor:
        """theta_mu(n) -> alpha(n) + theta_mu(n) - alpha(n+mu), wrapped."""
        shifted = torch.stack([lattice.shift(rotation, mu) for mu in range(lattice.ndim)], 1)
        return self.reunitarise(rotation.unsqueeze(1) + links - shifted)

    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """Angle + w, not wrapped: rounding of the wrap would cost reversibility."""
        return field + omega.squeeze(-1)

    def reunitarise(self, field: Tensor) -> Tensor:
        """Wrap angles into (-pi, pi]."""
        wrapped = pi - torch.remainder(pi - field, 2 * pi)
        # the remainder of a tiny negative number rounds to 2 pi
        return torch.where(wrapped == -pi, pi, wrapped)

    def defect(self, field: Tensor) -> Tensor:
        """Zero, or infinity where an angle is not finite."""
        finite = torch.isfinite(field).flatten(1).all(1)
        return torch.where(finite, 0.0, float("inf")).to(field.dtype)

    def cold(self, lattice: Lattice, n_chains: int, device: torch.device | str = "cpu") -> Tensor:
        """Zero angles."""
        shape = (n_chains, lattice.ndim, *lattice.shape)
        return torch.zeros(shape, dtype=torch.float64, device=device)

    def site_shape(self, field: Tensor) -> tuple[int, ...]:
        """The shape of the angles."""
        return tuple(field.shape)
