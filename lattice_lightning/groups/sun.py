"""SU(N) for any N, packed as real and imaginary parts."""

from math import factorial, sqrt

import torch
from torch import Tensor

from lattice_lightning.groups.compiled import worth_fusing
from lattice_lightning.groups.matrix import MatrixGroup
from lattice_lightning.groups.move import move_su3
from lattice_lightning.groups.product import complex_product, product

__all__ = ["SUN", "generators"]


def generators(n_colors: int) -> Tensor:
    """Generalised Gell-Mann matrices over two, ``[N^2 - 1, N, N]``, tr T_a T_b = 1/2 delta_ab.

    Example:
        >>> t = generators(3)
        >>> torch.allclose(torch.einsum("aij,bji->ab", t, t).real, 0.5 * torch.eye(8).double())
        True
    """
    basis = []
    for i in range(n_colors):
        for j in range(i + 1, n_colors):
            symmetric = torch.zeros(n_colors, n_colors, dtype=torch.complex128)
            symmetric[i, j] = symmetric[j, i] = 0.5
            antisymmetric = torch.zeros(n_colors, n_colors, dtype=torch.complex128)
            antisymmetric[i, j] = torch.tensor(-0.5j)
            antisymmetric[j, i] = torch.tensor(0.5j)
            basis += [symmetric, antisymmetric]
    for k in range(1, n_colors):
        diagonal = torch.zeros(n_colors, dtype=torch.complex128)
        diagonal[:k], diagonal[k] = 1.0, -float(k)
        basis.append(torch.diag(diagonal) / sqrt(2 * k * (k + 1)))
    return torch.stack(basis)


class SUN(MatrixGroup):
    """SU(N), N >= 2. For N = 2 prefer :class:`SU2`, which is faster and equal.

    Example:
        >>> SUN(3).n_generators
        8
    """

    n_component_dims = 3

    def __init__(self, n_colors: int) -> None:
        super().__init__(n_colors)
        basis = generators(n_colors)
        self._basis = torch.stack([basis.real, basis.imag])

    def _generators(self, like: Tensor) -> Tensor:
        if self._basis.device != like.device or self._basis.dtype != like.dtype:
            return self._basis.to(like)
        return self._basis

    def pack(self, links: Tensor) -> Tensor:
        """``[batch, ..., N, N]`` to ``[2, N, N, ..., batch]``."""
        m = links.movedim((-2, -1), (0, 1)).movedim(2, -1)
        return torch.stack([m.real, m.imag])

    def unpack(self, packed: Tensor) -> Tensor:
        """``[2, N, N, ..., batch]`` to ``[batch, ..., N, N]``."""
        m = torch.complex(packed[0], packed[1])
        return m.movedim(-1, 2).movedim((0, 1), (-2, -1)).contiguous()

    def to_matrix(self, packed: Tensor) -> Tensor:
        """The packed layout is the matrix layout."""
        return packed

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
        """Hermitian conjugate."""
        return torch.stack([a[0].transpose(0, 1), -a[1].transpose(0, 1)])

    def re_trace(self, a: Tensor) -> Tensor:
        """Re tr a."""
        return torch.stack([a[0, i, i] for i in range(self.n_colors)]).sum(0)

    def im_trace(self, a: Tensor) -> Tensor:
        """Im tr a."""
        return torch.stack([a[1, i, i] for i in range(self.n_colors)]).sum(0)

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Re tr(a b^dag) = sum over all real components."""
        return (a * b).sum((0, 1, 2))

    def exp(self, omega: Tensor) -> Tensor:
        """exp(i w_a T_a): Cayley-Hamilton for SU(3), torch.linalg.matrix_exp otherwise."""
        basis = self._generators(omega)
        # i (T_r + i T_i) = -T_i + i T_r
        x = torch.stack(
            [
                -torch.einsum("aij,a...->ij...", basis[1], omega),
                torch.einsum("aij,a...->ij...", basis[0], omega),
            ]
        )
        if self.n_colors == 3 and float(omega.detach().abs().amax()) < 8:
            return self._exp_cayley_hamilton(x)
        m = torch.complex(x[0], x[1]).movedim((0, 1), (-2, -1))
        e = torch.linalg.matrix_exp(m).movedim((-2, -1), (0, 1))
        return torch.stack([e.real, e.imag])

    def _exp_cayley_hamilton(self, x: Tensor) -> Tensor:
        """exp of traceless anti-hermitian 3x3: X^3 = t X + i d, so a power series is q0 + q1 X + q2 X^2.

        The series (24 terms at X/4, then two squarings) has no singular point, unlike the
        closed form of hep-lat/0311018, whose gradient is 0/0 at X = 0.
        """
        x = x / 4
        x2 = self.mul(x, x)
        t = 0.5 * self.re_trace(x2)
        # tr X^3 is imaginary: tr(X^2 X) = -tr(X^2 X^dag)
        d = -(x2[1] * x[0] - x2[0] * x[1]).sum((0, 1)) / 3
        zero = torch.zeros_like(t)
        q0r, q0i, q1r, q1i, q2r, q2i = zero + 1 / factorial(24), zero, zero, zero, zero, zero
        for n in range(23, -1, -1):
            q0r, q0i, q1r, q1i, q2r, q2i = (
                1 / factorial(n) - q2i * d,
                q2r * d,
                q0r + q2r * t,
                q0i + q2i * t,
                q1r,
                q1i,
            )
        eye = torch.eye(3, dtype=x.dtype, device=x.device).reshape(3, 3, *[1] * (x.ndim - 3))
        e = torch.stack(
            [
                q0r * eye + q1r * x[0] - q1i * x[1] + q2r * x2[0] - q2i * x2[1],
                q0i * eye + q1r * x[1] + q1i * x[0] + q2r * x2[1] + q2i * x2[0],
            ]
        )
        e = self.mul(e, e)
        return self.mul(e, e)

    def move(self, links: Tensor, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) U, fused for SU(3) where that pays."""
        if self.n_colors != 3 or not worth_fusing(links[0, 0, 0]):
            return super().move(links, omega)
        return move_su3(omega.flatten(1, -2), links.flatten(3, -2)).view(links.shape)

    def _trace_with_generators(self, a: Tensor) -> Tensor:
        """Im tr(T_a M)."""
        basis = self._generators(a)
        return torch.einsum("aij,ji...->a...", basis[0], a[1]) + torch.einsum(
            "aij,ji...->a...", basis[1], a[0]
        )

    def project(self, a: Tensor) -> Tensor:
        """w_a = 2 Im tr(T_a M)."""
        return 2 * self._trace_with_generators(a)

    def algebra_gradient(self, a: Tensor, gradient: Tensor) -> Tensor:
        """Re tr(G^dag i T_a U) = -Im tr(T_a U G^dag)."""
        return -self._trace_with_generators(self.mul_nh(a, gradient))

    def haar(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """QR of a Ginibre matrix with the phases of R removed, determinant set to one."""
        n = self.n_colors
        real = torch.randn(2, *shape, n, n, generator=rng, dtype=torch.float64, device=rng.device)
        q, r = torch.linalg.qr(torch.complex(real[0], real[1]))
        phase = torch.diagonal(r, dim1=-2, dim2=-1)
        q = q * (phase / phase.abs()).unsqueeze(-2)
        return self._unit_determinant(q)

    def _unit_determinant(self, q: Tensor) -> Tensor:
        det = torch.linalg.det(q)
        fixed = q.clone()
        fixed[..., :, 0] = q[..., :, 0] * det.conj().unsqueeze(-1)
        return fixed

    def reunitarise(self, field: Tensor) -> Tensor:
        """Gram-Schmidt on the columns, determinant set to one."""
        if self.n_colors == 3:
            return self._reunitarise_su3(field)
        q, r = torch.linalg.qr(field)
        phase = torch.diagonal(r, dim1=-2, dim2=-1)
        return self._unit_determinant(q * (phase / phase.abs()).unsqueeze(-2))

    @staticmethod
    def _reunitarise_su3(field: Tensor) -> Tensor:
        """The same in closed form: LAPACK takes the matrices one by one."""
        a, b, c = field.unbind(-1)
        a = a / _norm(a)
        b = b - a * (a.conj() * b).sum(-1, keepdim=True)
        b = b / _norm(b)
        # the third column up to its phase, which is that of the determinant
        third = torch.linalg.cross(a, b).conj()
        overlap = (third.conj() * c).sum(-1, keepdim=True)
        phase = overlap / overlap.abs()
        return torch.stack([a * phase.conj(), b, third * phase], -1)


def _norm(v: Tensor) -> Tensor:
    return torch.view_as_real(v.resolve_conj()).square().sum((-2, -1)).sqrt().unsqueeze(-1)
