"""Eigenvalues of SU(N) elements and functions of them, differentiable also where eigenvalues meet."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lattice_lightning.models.class_torus import diagonalise

__all__ = ["Rebuild", "closed", "distance_ratios", "eigen"]


def closed(angles: Tensor) -> Tensor:
    """All N angles of N - 1."""
    return torch.cat([angles, -angles.sum(0, keepdim=True)])


def eigen(elements: Tensor) -> tuple[Tensor | None, Tensor]:
    """Constant eigenvectors (None for SU(2)) and free angles ``[N - 1, n]`` with their derivatives.

    d th_j = Im(e^{-i th_j} v_j^dag dP v_j) needs none of the eigenvectors, which have poles.
    """
    if elements.shape[-1] == 2:
        cos = elements.diagonal(dim1=-2, dim2=-1).real.sum(-1) / 2
        axis = torch.view_as_real(0.5 * (elements - elements.mH)).flatten(1)
        length = (0.5 * axis.detach().square().sum(1)).clamp_min(torch.finfo(cos.dtype).tiny).sqrt()
        sin = 0.5 * (axis * (axis.detach() / length[:, None])).sum(1)
        return None, torch.atan2(sin, cos)[None]
    with torch.no_grad():
        angles, vectors = diagonalise(elements)
    if elements.requires_grad:
        phases = torch.polar(torch.ones_like(angles), -angles)
        angles = angles + ((vectors.conj() * (elements @ vectors)).sum(-2) * phases).angle()
    return vectors, angles.T[:-1]


def distance_ratios(begin: Tensor, end: Tensor, jacobian: Tensor) -> Tensor:
    """sin(th'_i - th'_j)/2 over sin(th_i - th_j)/2, pairs i < j: ``[pairs, n]``.

    Where eigenvalues meet it is the derivative of their distance, from the Jacobian.
    """
    # where the errors of quotient and derivative, rounding / d and d^2, balance
    near = torch.finfo(begin.dtype).eps ** (1 / 3)
    rows, old, new = closed(jacobian), closed(begin), closed(end)
    ratios = []
    for i in range(len(old)):
        for j in range(i + 1, len(old)):
            before, after = (old[i] - old[j]) / 2, (new[i] - new[j]) / 2
            # th_i grows and th_j falls by as much
            along = rows[:, i] - rows[:, j] if j < len(jacobian) else rows[:, i]
            slope = 0.5 * (along[i] - along[j]) * (after.cos() * before.cos()).sign()
            meet = before.sin().abs() < near
            quotient = torch.where(meet, 1.0, after.sin()) / torch.where(meet, 1.0, before.sin())
            ratios.append(torch.where(meet, slope, quotient))
    return torch.stack(ratios)


class Rebuild(torch.autograd.Function):
    """V e^{i th'} V^dag with the derivatives by P = V e^{i th} V^dag and th'.

    By P it is (Daleckii and Krein) V [K o V^dag dP V] V^dag with K_ij = (l'_i - l'_j) / (l_i - l_j) for
    i != j, which is the ratio of distances times a phase, and K_ii = 0: that part is th'.
    """

    @staticmethod
    def forward(
        ctx: Any, elements: Tensor, vectors: Tensor, old: Tensor, new: Tensor, ratios: Tensor
    ) -> Tensor:
        """V e^{i th'} V^dag of constant V ``[n, N, N]``, angles ``[N, n]`` and :func:`distance_ratios`."""
        ctx.save_for_backward(vectors, old, new, ratios)
        phases = torch.polar(torch.ones_like(new), new).T
        return (vectors * phases.unsqueeze(-2)) @ vectors.mH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        """By P and th'."""
        vectors, old, new, ratios = ctx.saved_tensors
        rotated = vectors.mH @ gradient @ vectors
        phases = torch.polar(torch.ones_like(new), new).T
        by_angle = (rotated.diagonal(dim1=-2, dim2=-1).conj() * phases).imag.neg().T
        turn, pair = 0.5 * (new - old), 0
        quotients = torch.zeros_like(rotated)
        for i in range(len(new)):
            for j in range(i + 1, len(new)):
                quotients[:, i, j] = torch.polar(ratios[pair], -turn[i] - turn[j])
                quotients[:, j, i] = quotients[:, i, j]
                pair += 1
        return vectors @ (quotients * rotated) @ vectors.mH, None, None, by_angle, None
