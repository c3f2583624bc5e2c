"""Conjugacy classes of SU(N): the maximal torus with Haar's measure, and the way there and back."""

from math import pi

import torch
from torch import Tensor

__all__ = ["determinant", "diagonalise", "haar_density", "log_haar_ratio", "solve", "torus_grid"]


def torus_grid(n_colors: int, n_points: int) -> tuple[Tensor, Tensor]:
    """Eigenangles of SU(N), ``[points, N]``, with weights of the Haar measure that sum to one.

    Trapezoidal, so exact for class functions of degree below ``n_points``; U(1) has one angle.
    """
    axis = (torch.arange(n_points, dtype=torch.float64) + 0.5) * (2 * pi / n_points) - pi
    if n_colors == 1:
        return axis[:, None], torch.full((n_points,), 1 / n_points, dtype=torch.float64)
    free = torch.meshgrid(*[axis] * (n_colors - 1), indexing="ij")
    angles = torch.stack([f.flatten() for f in free], 1)
    angles = torch.cat([angles, -angles.sum(1, keepdim=True)], 1)
    weights = haar_density(angles)
    return angles, weights / weights.sum()


def haar_density(angles: Tensor) -> Tensor:
    """prod_{i<j} |e^{i th_i} - e^{i th_j}|^2."""
    density = torch.ones_like(angles[..., 0])
    for i in range(angles.shape[-1]):
        for j in range(i):
            density = density * (2 * torch.sin((angles[..., i] - angles[..., j]) / 2)).square()
    return density


def determinant(m: Tensor) -> Tensor:
    """Of ``[f, f, n]``."""
    if len(m) == 1:
        return m[0, 0]
    if len(m) == 2:
        return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    return torch.linalg.det(m.movedim(-1, 0))


def solve(m: Tensor, x: Tensor) -> Tensor:
    """m^-1 x of ``[f, f, n]`` and ``[f, n]``."""
    if len(m) == 1:
        return x / m[0]
    if len(m) == 2:
        adjugate = torch.stack([m[1, 1] * x[0] - m[0, 1] * x[1], m[0, 0] * x[1] - m[1, 0] * x[0]])
        return adjugate / determinant(m)
    return torch.linalg.solve(m.movedim(-1, 0), x.T.unsqueeze(-1)).squeeze(-1).T


def log_haar_ratio(begin: Tensor, end: Tensor, jacobian: Tensor) -> Tensor:
    """log of the Haar densities' ratio, end over begin, from free angles and the Jacobian between them.

    Where two eigenvalues meet it is the derivative of their distance.
    """
    begin, end = (torch.cat([x, -x.sum(0, keepdim=True)]) for x in (begin, end))
    rows = torch.cat([jacobian, -jacobian.sum(0, keepdim=True)])
    total = torch.zeros_like(begin[0])
    # where the errors of quotient and derivative, rounding / d and d^2, balance
    near = torch.finfo(begin.dtype).eps ** (1 / 3)
    for i in range(len(begin)):
        for j in range(i):
            d_begin = torch.sin((begin[i] - begin[j]) / 2)
            d_end = torch.sin((end[i] - end[j]) / 2)
            # th_j grows and th_i falls by as much
            along = rows[:, j] - rows[:, i] if i < len(jacobian) else rows[:, j]
            slope = (along[j] - along[i]) / 2
            meet = d_begin.abs() < near
            quotient = torch.where(meet, 1.0, d_end) / torch.where(meet, 1.0, d_begin)
            ratio = torch.where(meet, slope, quotient)
            total = total + 2 * ratio.abs().log()
    return total


def diagonalise(elements: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenangles ``[..., N]``, which add up to zero, and orthonormal eigenvectors of unitary matrices.

    Of a hermitian combination of P and P^dag, whose eigenvectors are orthonormal even where eigenvalues
    meet; another combination where the first has eigenvalues that meet and P has not.
    """
    flat = elements.reshape(-1, *elements.shape[-2:])
    phases, vectors, error = _diagonalise_along(flat, 0.8, 0.6)
    again = (error > (1e3 * torch.finfo(error.dtype).eps) ** 2).nonzero().squeeze(1)
    if len(again):
        phases_again, vectors_again, error_again = _diagonalise_along(flat[again], 0.28, -0.96)
        better = error_again < error[again]
        phases = phases.index_put((again[better],), phases_again[better])
        vectors = vectors.index_put((again[better],), vectors_again[better])
    angles = phases.angle()
    # the determinant is one: put the angles on the plane where they add up to zero
    angles = torch.cat([angles[:, :-1], -angles[:, :-1].sum(1, keepdim=True)], 1)
    return angles.reshape(elements.shape[:-1]), vectors.reshape(elements.shape)


def _diagonalise_along(elements: Tensor, a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, eigenvectors of a Re P + b Im P, and what they leave off the diagonal, squared."""
    # (P + P^dag) / 2 and (P - P^dag) / 2i in one
    half = complex(a / 2, -b / 2) * elements
    vectors = torch.linalg.eigh(half + half.mH)[1]
    image = elements @ vectors
    phases = (vectors.conj() * image).sum(-2)
    off = torch.view_as_real(image - vectors * phases.unsqueeze(-2)).square().sum((-3, -2, -1))
    return phases, vectors, off.detach()
