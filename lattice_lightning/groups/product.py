"""Products of packed matrices as one autograd node each.

The backward of a product is two products, so a node keeps only its factors. Kernels accumulate in
place (no autograd inside): arrays of a few hundred kilobytes stay in cache, which makes plain
in-place torch as fast as the memory allows for the lattices that one core holds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["complex_product", "product", "quaternion_product"]

Kernel = Callable[[Tensor, Tensor, bool, bool], Tensor]

# (a0 + i a.sigma)(b0 + i b.sigma) = a0 b0 - a.b + i (a0 b + b0 a - a x b).sigma
_QUATERNION = (
    ((0, 0, 1), (1, 1, -1), (2, 2, -1), (3, 3, -1)),
    ((0, 1, 1), (1, 0, 1), (2, 3, -1), (3, 2, 1)),
    ((0, 2, 1), (2, 0, 1), (3, 1, -1), (1, 3, 1)),
    ((0, 3, 1), (3, 0, 1), (1, 2, -1), (2, 1, 1)),
)


def quaternion_product(a: Tensor, b: Tensor, adj_a: bool, adj_b: bool) -> Tensor:
    """Product of quaternions ``[4, ...]``; the flags conjugate a factor."""
    out = torch.empty_like(a)
    # views once: indexing sixteen times would cost as much as the arithmetic of small lattices
    left, right, result = a.unbind(0), b.unbind(0), out.unbind(0)
    for component, terms in zip(result, _QUATERNION, strict=True):
        for position, (i, j, sign) in enumerate(terms):
            if adj_a and i:
                sign = -sign
            if adj_b and j:
                sign = -sign
            if position == 0:
                torch.mul(left[i], right[j], out=component)
                if sign < 0:
                    component.neg_()
            else:
                component.addcmul_(left[i], right[j], value=sign)
    return out


def complex_product(a: Tensor, b: Tensor, adj_a: bool, adj_b: bool) -> Tensor:
    """Product of matrices given as real and imaginary parts ``[2, N, N, ...]``."""
    ar, ai = (a[0].transpose(0, 1), a[1].transpose(0, 1)) if adj_a else (a[0], a[1])
    br, bi = (b[0].transpose(0, 1), b[1].transpose(0, 1)) if adj_b else (b[0], b[1])
    sign_a, sign_b = (-1 if adj_a else 1), (-1 if adj_b else 1)
    out = torch.empty_like(a)
    real, imag = out[0], out[1]
    for j in range(a.shape[1]):
        left_r, left_i = ar[:, j].unsqueeze(1), ai[:, j].unsqueeze(1)
        right_r, right_i = br[j].unsqueeze(0), bi[j].unsqueeze(0)
        if j == 0:
            torch.mul(left_r, right_r, out=real)
            torch.mul(left_r, right_i, out=imag)
            if sign_b < 0:
                imag.neg_()
        else:
            real.addcmul_(left_r, right_r)
            imag.addcmul_(left_r, right_i, value=sign_b)
        real.addcmul_(left_i, right_i, value=-sign_a * sign_b)
        imag.addcmul_(left_i, right_r, value=sign_a)
    return out


class _Product(torch.autograd.Function):
    """C = A B, A B^dag or A^dag B; gradients are with respect to the real components."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, kernel: Kernel, adj_a: bool, adj_b: bool
    ) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.kernel, ctx.adj_a, ctx.adj_b = kernel, adj_a, adj_b
        return kernel(a, b, adj_a, adj_b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), kernel, g = ctx.saved_tensors, ctx.kernel, gradients[0].contiguous()
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            if ctx.adj_a:
                grad_a = product(b, g, kernel, False, True)
            else:
                grad_a = product(g, b, kernel, False, not ctx.adj_b)
        if ctx.needs_input_grad[1]:
            if ctx.adj_b:
                grad_b = product(g, a, kernel, True, False)
            else:
                grad_b = product(a, g, kernel, not ctx.adj_a, False)
        return grad_a, grad_b, None, None, None


def product(a: Tensor, b: Tensor, kernel: Kernel, adj_a: bool = False, adj_b: bool = False) -> Tensor:
    """Differentiable product of packed elements; at most one factor may be conjugated."""
    if a.shape != b.shape:
        a, b = (t.contiguous() for t in torch.broadcast_tensors(a, b))
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        result: Tensor = _Product.apply(a, b, kernel, adj_a, adj_b)  # type: ignore[no-untyped-call]
        return result
    return kernel(a, b, adj_a, adj_b)
