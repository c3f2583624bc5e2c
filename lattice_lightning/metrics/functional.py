"""Figures of merit as functions: tensors in, tensors out."""

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError

__all__ = [
    "acceptance_probability", "boltzmann_factor", "effective_sample_size", "independence_acceptance",
]


def boltzmann_factor(delta_H: Tensor) -> Tensor:
    """exp(-delta_H), zero where delta_H is not finite (such a trajectory is rejected).

    Its mean is one in equilibrium for any exact kernel (Phys. Rev. D 38, 1228).
    """
    return torch.where(torch.isfinite(delta_H), torch.exp(-delta_H), 0.0)


def acceptance_probability(delta_H: Tensor) -> Tensor:
    """Metropolis probability min(1, exp(-delta_H)), zero where delta_H is not finite.

    Its mean has the expectation of the acceptance rate and a smaller variance.

    Example:
        >>> acceptance_probability(torch.tensor([-1.0, 0.0, float("nan")]))
        tensor([1., 1., 0.])
    """
    return boltzmann_factor(delta_H).clamp(max=1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """ESS = (mean w)^2 / mean w^2 of importance weights, in (0, 1], for ``[n]`` log weights.

    Free of overflow; biased up for small n, so quote it at n >= 10^4 (2101.08176). A log weight of nan or
    +inf is a failure and has weight zero, as in the accept step that rejects it.

    Raises:
        InputError: for anything but a non-empty vector.

    Example:
        >>> effective_sample_size(torch.zeros(100))
        tensor(1.)
    """
    if log_weights.ndim != 1 or log_weights.numel() == 0:
        raise InputError(
            f"expected log weights [n] with n >= 1, got shape {list(log_weights.shape)}"
        )
    n = torch.tensor(float(log_weights.numel()), dtype=log_weights.dtype, device=log_weights.device)
    log_weights = without_failures(log_weights)
    if bool(torch.isneginf(log_weights).all()):
        return torch.zeros_like(n)
    first, second = torch.logsumexp(log_weights, 0), torch.logsumexp(2 * log_weights, 0)
    return torch.exp(2 * first - second - n.log())


def without_failures(log_weights: Tensor) -> Tensor:
    """Log weights with -inf where they are nan or +inf, as any shape."""
    failed = torch.isnan(log_weights) | (log_weights == torch.inf)
    return torch.where(failed, -torch.inf, log_weights)


def independence_acceptance(log_weights: Tensor) -> Tensor:
    """Acceptance of independence Metropolis in equilibrium, from direct draws ``[n]``.

    E[min(1, w(y) / w(x))] over x from the target, y from the model: the mean of min(w_i, w_j) over
    pairs i != j in units of the mean w. Biased up for small n, as the effective sample size.

    Example:
        >>> independence_acceptance(torch.zeros(4))
        tensor(1.)
    """
    n = len(log_weights)
    log_weights = without_failures(log_weights)
    if n < 2 or bool(torch.isneginf(log_weights).all()):
        return torch.zeros((), dtype=log_weights.dtype, device=log_weights.device)
    weights = torch.softmax(log_weights, 0).sort().values
    # the k-th smallest of n weights is the smaller one in 2 (n - k) ordered pairs
    larger = torch.arange(n - 1, -1, -1, dtype=weights.dtype, device=weights.device)
    return 2 * (weights * larger).sum() / (n - 1)
