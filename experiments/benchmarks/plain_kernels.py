"""Hop, solver, force, smearing and attention in plain torch, to time the package's kernels against.

As one writes them for a few configurations: complex tensors, links ``[batch, mu, *lattice, N, N]``, psi
``[batch, *lattice, N]``, einsum or matmul and torch.roll, autograd for gradients. Nothing of the package.
"""

from math import pi

import torch
from torch import Tensor

#: K and N of the attention: tan((pi/4) tanh(a / (N + 0.01))), staples of up to seven links
S_MAX = 3


def staggered_signs(shape: tuple[int, ...]) -> Tensor:
    """eta_mu(n) with the antiperiodic boundary in time, ``[mu, *lattice]``."""
    axes = torch.meshgrid(*(torch.arange(extent) for extent in shape), indexing="ij")
    signs = [(1.0 - 2.0 * (sum(axes[:mu], torch.zeros_like(axes[0])) % 2)) for mu in range(len(shape))]
    signs[-1] = torch.where(axes[-1] == shape[-1] - 1, -signs[-1], signs[-1])
    return torch.stack(signs).double()


def hop(links: Tensor, psi: Tensor, eta: Tensor) -> Tensor:
    """K psi on all sites."""
    out = torch.zeros_like(psi)
    for mu in range(links.shape[1]):
        u = eta[mu].unsqueeze(-1).unsqueeze(-1) * links[:, mu]
        out += torch.einsum("b...ij,b...j->b...i", u, torch.roll(psi, -1, 1 + mu))
        back = torch.einsum("b...ji,b...j->b...i", u.conj(), psi)
        out -= torch.roll(back, 1, 1 + mu)
    return 0.5 * out


def solve(links: Tensor, b: Tensor, eta: Tensor, mass: float, tolerance: float) -> tuple[Tensor, int]:
    """(m^2 - K^2) x = b by conjugate gradients, all chains until the last has converged."""

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p.conj() * q).real.flatten(1).sum(1).reshape(-1, *[1] * (p.ndim - 1))

    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    rr = dot(r, r)
    target, iterations = tolerance**2 * rr, 0
    while bool((rr > target).any()):
        q = mass**2 * p - hop(links, hop(links, p, eta), eta)
        alpha = rr / dot(p, q)
        x = x + alpha * p
        r = r - alpha * q
        new = dot(r, r)
        p = r + new / rr * p
        rr, iterations = new, iterations + 1
    return x, iterations


def staples(links: Tensor) -> Tensor:
    """Sum of the 2(d - 1) staples of every link, like the links."""
    total = []
    for mu in range(links.shape[1]):
        u, sum_mu = links[:, mu], torch.zeros_like(links[:, mu])
        for nu in range(links.shape[1]):
            if nu != mu:
                v = links[:, nu]
                ahead = torch.roll(v, -1, 1 + mu)
                sum_mu = sum_mu + v @ torch.roll(u, -1, 1 + nu) @ ahead.mH
                sum_mu = sum_mu + torch.roll(v.mH @ u @ ahead, 1, 1 + nu)
        total.append(sum_mu)
    return torch.stack(total, 1)


def traceless(m: Tensor) -> Tensor:
    """(M - M^dag)/2 minus its trace part."""
    a = 0.5 * (m - m.mH)
    trace = a.diagonal(dim1=-2, dim2=-1).sum(-1) / m.shape[-1]
    return a - trace[..., None, None] * torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)


def wilson_force(links: Tensor, beta: float, basis: Tensor) -> Tensor:
    """dS/dw_a, ``[batch, mu, *lattice, a]``."""
    m = traceless(staples(links) @ links.mH)
    return -(beta / links.shape[-1]) * torch.einsum("aij,...ji->...a", basis, m).imag


def stout(links: Tensor, rho: float) -> Tensor:
    """One step of stout smearing."""
    return torch.linalg.matrix_exp(rho * traceless(staples(links) @ links.mH)) @ links


def transported(links: Tensor, mu: int, nu: int, sign: int) -> list[Tensor]:
    """Staples of 2s + 1 links of direction mu, s = 1 ... S_MAX, along sign * nu."""
    staple, v, result = links[:, mu], links[:, nu], []
    for _ in range(S_MAX):
        if sign > 0:
            staple = v @ torch.roll(staple, -1, 1 + nu) @ torch.roll(v, -1, 1 + mu).mH
        else:
            staple = torch.roll(v.mH @ staple @ torch.roll(v, -1, 1 + mu), 1, 1 + nu)
        result.append(staple)
    return result


def cask_block(links: Tensor, rho: Tensor) -> Tensor:
    """One attention block with weights rho of query, key and value."""
    flow = 2 * traceless(staples(links) @ links.mH)
    query, key, value = (torch.linalg.matrix_exp(r * flow) @ links for r in rho)
    total = []
    for mu in range(links.shape[1]):
        sum_mu = torch.zeros_like(links[:, mu])
        for nu in range(links.shape[1]):
            for sign in (1, -1) if nu != mu else ():
                copies = [transported(x, mu, nu, sign) for x in (key, value, links)]
                for k, v, u in zip(*copies, strict=True):
                    overlap = (query[:, mu] * k.conj()).sum((-2, -1)).real
                    overlap = overlap - (links[:, mu] * u.conj()).sum((-2, -1)).real
                    a = torch.tan(pi / 4 * torch.tanh(overlap / (links.shape[-1] + 0.01)))
                    sum_mu = sum_mu + a[..., None, None] * v
        total.append(sum_mu)
    return torch.linalg.matrix_exp(traceless(torch.stack(total, 1) @ links.mH)) @ links
