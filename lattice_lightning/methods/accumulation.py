"""Gradients of a mean over a batch that is too large for the memory of one graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Term", "accumulate"]

#: gives values ``[n]`` with a graph, whose mean is a loss, and figures ``[k, n]`` without
Term = Callable[[], tuple[Tensor, Tensor]]


def accumulate(
    terms: Sequence[Term], parameters: Sequence[nn.Parameter], keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean of the values of all terms, with its gradient, and their figures ``[k, n]``.

    Of several terms only one graph lives at a time. What is returned then is linear in the parameters
    with the gradient that was found, so that a backward pass (Lightning's, DDP's) sees nothing special.

    Args:
        terms: parts of the batch.
        parameters: what the gradient is taken by.
        keep_graph: the terms share a part of their graphs.
    """
    if len(terms) == 1:
        value, figures = terms[0]()
        return value.mean(), figures
    wanted = [p for p in parameters if p.requires_grad]
    totals = [torch.zeros_like(p) for p in wanted]
    values, found = [], []
    for term in terms:
        value, figures = term()
        gradients = torch.autograd.grad(value.sum(), wanted, allow_unused=True, retain_graph=keep_graph)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient
        values.append(value.detach())
        found.append(figures)
        del value
    joined = torch.cat(values)
    products = [(p * (g / len(joined))).sum() for p, g in zip(wanted, totals, strict=True)]
    linear = torch.stack([product.to(joined.dtype) for product in products]).sum()
    return joined.mean() + (linear - linear.detach()), torch.cat(found, 1)
