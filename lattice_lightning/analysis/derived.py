"""Functions of several averages: cumulants of the condensate, bias-corrected and not.

A correction acts on each moment; what is formed of the moments comes after (a cumulant of corrected
values is not the corrected cumulant). Errors are linear: with M the averages and g the gradient of f
there, the series f(M) + sum_k g_k (O_k - M_k) has the error of f(M), autocorrelations included.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import comb

import numpy as np
import torch
from torch import Tensor

from lattice_lightning.analysis.correction import Corrected, bias_corrected
from lattice_lightning.analysis.errors import Array, Estimate, estimate
from lattice_lightning.exceptions import InputError

__all__ = [
    "CUMULANTS", "corrected_function", "cumulant", "estimate_function", "linearised", "shifted_moments",
]

Function = Callable[[Tensor], Tensor]
#: cumulants of the condensate, in the order of the moments that they need
CUMULANTS = ("condensate", "susceptibility", "skewness", "kurtosis")


def cumulant(name: str, volume: int, offset: float = 0.0) -> Function:
    r"""A cumulant as a function of the moments m_k = M_k / V^k about an offset.

    M_k = (1/Z) d^k Z / dm^k for the weight det D(m) e^{-offset m V}; kappa_k of the M_k are
    derivatives of ln Z, and

        condensate = kappa_1 / V, susceptibility = kappa_2 / V, skewness = kappa_3 / kappa_2^{3/2},
        kurtosis = kappa_4 / kappa_2^2.

    All but the first are the same for every offset; one near the condensate keeps them from being
    small differences of large numbers.

    Args:
        name: one of ``CUMULANTS``.
        volume: V.
        offset: what was subtracted from Tr D^-1 / V (:func:`shifted_moments`).

    Raises:
        InputError: for another name.

    Example:
        >>> round(float(cumulant("susceptibility", 256)(torch.tensor([0.5, 0.26], dtype=torch.float64))), 6)
        2.56
    """
    if name not in CUMULANTS:
        raise InputError(f"the cumulants are {', '.join(CUMULANTS)}, got {name!r}")

    def value(m: Tensor) -> Tensor:
        if name == "condensate":
            return m[0] + offset
        second = m[1] - m[0] ** 2
        if name == "susceptibility":
            return volume * second
        third = m[2] - 3 * m[1] * m[0] + 2 * m[0] ** 3
        if name == "skewness":
            return third / second**1.5
        fourth = m[3] - 4 * m[2] * m[0] - 3 * m[1] ** 2 + 12 * m[1] * m[0] ** 2 - 6 * m[0] ** 4
        return fourth / second**2

    return value


def shifted_moments(moments: Sequence[Array] | Array, offset: float) -> Array:
    """Moments 1, 2, ... about an offset, ``[k, ...]``, from those about zero; linear, so unbiased.

    Example:
        >>> shifted_moments([np.array([2.0]), np.array([5.0])], 2.0).tolist()
        [[0.0], [1.0]]
    """
    about_zero = [np.ones_like(np.asarray(moments[0], np.float64)), *(np.asarray(m) for m in moments)]
    return np.stack([
        sum(comb(k, j) * (-offset) ** (k - j) * about_zero[j] for j in range(k + 1))
        for k in range(1, len(about_zero))
    ])


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
        uncorrected=estimate_function(function, alone, name),
        labels=estimate_function(function, np.asarray(labels), name),
    )


def _corrected_mean(labels: Array, approximation: Array, unlabelled: Array, form: str) -> float:
    share = 1.0 if form == "unlabelled" else unlabelled.size / (unlabelled.size + approximation.size)
    average = share * unlabelled.mean() + (1 - share) * approximation.mean()
    return float(average + (labels - approximation).mean())
