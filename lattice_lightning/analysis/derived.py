"""Functions of several averages, bias-corrected and not.

A correction acts on each moment; what is formed of the moments comes after (a cumulant of corrected
values is not the corrected cumulant). Errors are linear: with M the averages and g the gradient of f
there, the series f(M) + sum_k g_k (O_k - M_k) has the error of f(M), autocorrelations included.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lattice_lightning.analysis.correction import Corrected, bias_corrected
from lattice_lightning.analysis.errors import Array, Estimate, estimate
from lattice_lightning.exceptions import InputError

__all__ = ["Function", "corrected_function", "estimate_function", "linearised"]

Function = Callable[[Tensor], Tensor]


def linearised(function: Function, series: Array, means: Array) -> Array:
    """f(M) + sum_k g_k (O_k - M_k), ``[chains, steps]``.

    Args:
        function: of a tensor ``[k]`` to a number, differentiable.
        series: ``[k, chains, steps]``.
        means: M, ``[k]``.

    Raises:
        InputError: where the function has no finite value or gradient (a negative variance).
    """
    at = torch.tensor(np.asarray(means, np.float64), requires_grad=True)
    value = function(at)
    (gradient,) = torch.autograd.grad(value, at)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(gradient).all()):
        raise InputError(
            f"the function of the averages {np.asarray(means).tolist()} is {value.item()}, with gradient "
            f"{gradient.tolist()}; more configurations are needed for it to exist"
        )
    shifted = np.asarray(series) - np.asarray(means)[:, None, None]
    result: Array = value.item() + np.tensordot(gradient.numpy(), shifted, 1)
    return result


def estimate_function(function: Function, series: Array, name: str = "observable") -> Estimate:
    """A function of the averages of series ``[k, chains, steps]`` with its error.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> x = rng.normal(2.0, 1.0, size=(8, 4000))
        >>> variance = estimate_function(lambda m: m[1] - m[0] ** 2, np.stack([x, x**2]))
        >>> abs(variance.value - 1) < 4 * variance.error
        True
    """
    return estimate(linearised(function, series, series.mean((1, 2))), name)


def corrected_function(
    function: Function, labels: Array, approximation: Array, unlabelled: Array, form: str = "all",
    name: str = "observable",
) -> Corrected:
    """A function of bias-corrected averages; see :func:`bias_corrected`.

    Args:
        function: of a tensor ``[k]`` to a number, differentiable.
        labels: exact O_k of the correction set, ``[k, chains, n]``.
        approximation: A_k there.
        unlabelled: A_k ``[k, chains, m]`` of the configurations without labels.
        form: of every average.
        name: for messages.

    Raises:
        InputError: for series of different k, and as :func:`bias_corrected`.

    Example:
        >>> rng = np.random.default_rng(2)
        >>> x = rng.normal(2.0, 1.0, size=(8, 3000))
        >>> o, a = np.stack([x, x**2]), np.stack([x + 0.2, 0.9 * x**2])
        >>> variance = lambda m: m[1] - m[0] ** 2
        >>> result = corrected_function(variance, o[..., :500], a[..., :500], a[..., 500:])
        >>> abs(result.value - 1) < 4 * result.error, abs(result.uncorrected.value - 1) > 0.5
        (True, True)
    """
    if not len(labels) == len(approximation) == len(unlabelled):
        raise InputError(
            f"{name}: got {len(labels)} labels, {len(approximation)} approximations and {len(unlabelled)} "
            "unlabelled ones; a function of k averages needs k of each"
        )
    parts = zip(labels, approximation, unlabelled, strict=True)
    means = np.array([_corrected_mean(*part, form) for part in parts])

    exact, approximate, others = (
        linearised(function, np.asarray(series), means) for series in (labels, approximation, unlabelled)
    )
    result = bias_corrected(exact, approximate, others, form, name)
    # far from the corrected averages the function is not linear: what is uncorrected stands for itself
    joined = form == "all" and np.shape(approximation)[1] == np.shape(unlabelled)[1]
    alone = np.concatenate([approximation, unlabelled], 2) if joined else np.asarray(unlabelled)
    return replace(
        result,
        uncorrected=_where_it_exists(function, alone, name, result.uncorrected),
        labels=_where_it_exists(function, np.asarray(labels), name, result.labels),
    )


def _where_it_exists(function: Function, series: Array, name: str, linear: Estimate) -> Estimate:
    """The function of these averages; where there is none (a negative variance), a linear continuation."""
    try:
        return estimate_function(function, series, name)
    except InputError:
        why = "does not exist for these averages; continued linearly from the corrected ones"
        return replace(linear, reliable=False, reason=why)


def _corrected_mean(labels: Array, approximation: Array, unlabelled: Array, form: str) -> float:
    share = 1.0 if form == "unlabelled" else unlabelled.size / (unlabelled.size + approximation.size)
    average = share * unlabelled.mean() + (1 - share) * approximation.mean()
    return float(average + (labels - approximation).mean())
