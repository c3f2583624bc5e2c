"""Batched conjugate gradients, every chain on its own.

A chain stops at its own residual, and up to rounding its numbers do not depend on which chains share
the batch: a converged chain is frozen, since one that reached zero residual would divide 0/0 and
poison itself.
Vectors are real, chains last: ``[..., batch]``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lattice_lightning.exceptions import ConvergenceError, InputError

__all__ = ["Solution", "multishift_cg"]

LinearMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """Solutions of (A + shift_k) x_k = b.

    Attributes:
        x: one solution a shift, each shaped like b.
        iterations: applications of A for each chain, ``[batch]``.
        residual: |r|/|b| of the smallest shift, by the recursion, ``[batch]``.
        converged: whether the residual met the tolerance, ``[batch]``.
    """

    x: list[Tensor]
    iterations: Tensor
    residual: Tensor
    converged: Tensor

    def require_converged(self, what: str, tolerance: float, max_iterations: int) -> None:
        """Raise unless every chain converged.

        Raises:
            ConvergenceError: naming the chains, their residuals and what to change.
        """
        if bool(self.converged.all()):
            return
        bad = (~self.converged).nonzero().flatten().tolist()
        listed = ", ".join(f"chain {c}: residual {float(self.residual[c]):.2e}" for c in bad[:4])
        more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
        raise ConvergenceError(
            f"{what}: conjugate gradients did not reach {tolerance:.1e} within {max_iterations} "
            f"iterations ({listed}{more}); raise max_iterations, use a heavier mass or a looser "
            "tolerance, and check that the field is finite"
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    products = (a * b).flatten(0, -2)
    if products.shape[1] == 1:
        # torch sums a lone column in another order than the same column among others
        return products.expand(-1, 2).contiguous().sum(0)[:1]
    return products.sum(0)


def multishift_cg(
    apply: LinearMap,
    b: Tensor,
    shifts: Sequence[float],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Solve (A + shift_k) x_k = b for all shifts in one Krylov space (hep-lat/9612014).

    Args:
        apply: symmetric positive semi-definite A, ``[..., batch] -> [..., batch]``.
        b: right-hand sides ``[..., batch]``.
        shifts: positive numbers; the smallest one converges last and decides when to stop.
        tolerance: demanded |r|/|b|.
        max_iterations: limit for every chain.

    Raises:
        InputError: for shifts, tolerance or limit out of range.

    Example:
        >>> diagonal = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
        >>> b = torch.ones(3, 1, dtype=torch.float64)
        >>> solution = multishift_cg(lambda v: diagonal * v, b, [1.0, 2.0], 1e-12, 100)
        >>> torch.allclose(solution.x[1], b / (diagonal + 2))
        True
    """
    if not shifts or min(shifts) <= 0:
        raise InputError(f"shifts must be positive (squared masses), got {list(shifts)}")
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise InputError(
            f"expected 0 < tolerance < 1 and max_iterations >= 1, got {tolerance}, {max_iterations}"
        )
    base = min(range(len(shifts)), key=lambda k: shifts[k])
    offsets = [float(shift) - float(shifts[base]) for shift in shifts]
    # heaviest last: its zeta underflows first
    others = sorted((k for k in range(len(shifts)) if k != base), key=lambda k: shifts[k])

    n_chains = b.shape[-1]
    x = [torch.zeros_like(b) for _ in shifts]
    p = [b.clone() for _ in shifts]
    r = b.clone()
    rr = _dot(r, r)
    target = tolerance**2 * rr
    one = torch.ones(n_chains, dtype=b.dtype, device=b.device)
    zeta = [one.clone() for _ in shifts]
    zeta_old = [one.clone() for _ in shifts]
    alpha_old, beta_old = one.clone(), torch.zeros_like(one)
    iterations = torch.zeros(n_chains, dtype=torch.int64, device=b.device)
    # nan compares false: a chain with a non-finite right-hand side never becomes active
    active = rr > target
    for _ in range(max_iterations):
        if not bool(active.any()):
            break
        p_base = p[base]
        q = apply(p_base).add_(p_base, alpha=float(shifts[base]))
        pq = _dot(p_base, q)
        alpha = torch.where(active, rr / torch.where(active, pq, one), 0.0)
        x[base].addcmul_(p_base, alpha)
        r.addcmul_(q, alpha, value=-1)
        rr_new = torch.where(active, _dot(r, r), rr)
        beta = torch.where(active, rr_new / torch.where(active, rr, one), 0.0)
        for k in others:
            # zeta recursion of hep-lat/9612014, in the sign convention alpha > 0
            numerator = zeta[k] * zeta_old[k] * alpha_old
            denominator = alpha * beta_old * (zeta_old[k] - zeta[k]) + zeta_old[k] * alpha_old * (
                1 + offsets[k] * alpha
            )
            zeta_new = torch.where(active, numerator / denominator, zeta[k])
            ratio = torch.where(active, zeta_new / zeta[k], 0.0)
            x[k].addcmul_(p[k], alpha * ratio)
            # a frozen chain keeps p: factor one on p and zero on r
            scale = torch.where(active, beta * ratio.square(), one)
            p[k].mul_(scale).addcmul_(r, torch.where(active, zeta_new, 0.0))
            zeta_old[k] = torch.where(active, zeta[k], zeta_old[k])
            zeta[k] = zeta_new
        p_base.mul_(torch.where(active, beta, one)).addcmul_(r, active.to(r.dtype))
        alpha_old = torch.where(active, alpha, alpha_old)
        beta_old = torch.where(active, beta, beta_old)
        iterations += active
        rr = rr_new
        active = active & (rr > target)
        # zeta of heavy shifts underflows long after they converged
        if others and bool((zeta[others[-1]].abs() < 1e-200).any()):
            zeta = [z.clamp_min(1e-200) for z in zeta]
            zeta_old = [z.clamp_min(1e-200) for z in zeta_old]
    norm = _dot(b, b)
    residual = torch.where(norm > 0, (rr / norm).sqrt(), torch.where(norm == 0, 0.0, float("nan")))
    converged = (rr <= target) & torch.isfinite(norm)
    return Solution(x, iterations, residual, converged)
