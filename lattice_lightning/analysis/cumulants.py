"""Cumulants of the chiral condensate from moments of traces.

With one weight det D(m), Q_n = (-1)^(n-1) (n-1)! Tr D^-n and dQ_n/dm = Q_{n+1}, the derivatives of the
weight are M_1 = Q_1, M_2 = Q_1^2 + Q_2, M_3 = Q_1^3 + 3 Q_1 Q_2 + Q_3 and
M_4 = Q_1^4 + 6 Q_1^2 Q_2 + 3 Q_2^2 + 4 Q_1 Q_3 + Q_4. All are used over the volume, m_k = M_k / V^k.
"""

from collections.abc import Callable, Mapping, Sequence
from math import comb, factorial

import numpy as np
from torch import Tensor

from lattice_lightning.analysis.errors import Array
from lattice_lightning.exceptions import InputError

__all__ = ["CUMULANTS", "cumulant", "predicted_moments", "shifted_moments"]

#: cumulants of the condensate, in the order of the moments that they need
CUMULANTS = ("condensate", "susceptibility", "skewness", "kurtosis")


def cumulant(name: str, volume: int, offset: float = 0.0) -> Callable[[Tensor], Tensor]:
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
        >>> import torch
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


def predicted_moments(
    powers: Sequence[Array], traces: Mapping[int, Array], volume: int, n_fields: int = 1
) -> Array:
    """Moments m_1, m_2, ..., ``[k, ...]``, from powers of the condensate and traces, measured or predicted.

    An approximation needs no distinct noise vectors: what products of noisy traces get wrong, the
    correction mends.

    Args:
        powers: q^1, q^2, ... with q = Tr D^-1 / V, as many as there are moments.
        traces: Tr D^-n / V by n, from 2 to the number of moments.
        volume: V.
        n_fields: unrooted staggered fields of the weight.

    Example:
        >>> predicted_moments([np.array([0.5]), np.array([0.25])], {2: np.array([-1.0])}, 10).tolist()
        [[0.5], [0.35]]
    """
    def q(n: int) -> Array:
        sign = (-1) ** (n - 1) * factorial(n - 1)
        return sign * n_fields * np.asarray(traces[n]) / float(volume) ** (n - 1)

    p = [np.asarray(power) * n_fields**k for k, power in enumerate(powers, 1)]
    moments = [p[0]]
    if len(p) > 1:
        moments.append(p[1] + q(2))
    if len(p) > 2:
        moments.append(p[2] + 3 * p[0] * q(2) + q(3))
    if len(p) > 3:
        moments.append(p[3] + 6 * p[1] * q(2) + 3 * q(2) ** 2 + 4 * p[0] * q(3) + q(4))
    return np.stack(moments)
