"""Exact results of two-dimensional lattice gauge theory with the Wilson action on a torus.

In two dimensions the torus partition function is Z = sum_r c_r^V over irreducible representations,
c_r the character coefficient of one plaquette over the dimension of r (Migdal 1975). Then the mean
plaquette is P = 1 + (1/V) d ln Z / d beta for S = beta sum (1 - Re tr P/N), or d ln Z / (V d beta)
without the constant.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import integrate, special

from lattice_lightning.exceptions import InputError

__all__ = ["charge_squared_u1", "plaquette_su2", "plaquette_su3", "plaquette_torus", "plaquette_u1"]

Array = npt.NDArray[np.float64]


def _mean(weights: Array, volume: int, derivatives: Array) -> float:
    """sum_r c_r^V (c_r' / c_r) / sum_r c_r^V, scaled by the largest c_r."""
    power = (weights / weights.max()) ** (volume - 1)
    ratio = weights / weights.max()
    return float((power * derivatives / weights.max()).sum() / (power * ratio).sum())


def plaquette_u1(beta: float, volume: int) -> float:
    """<cos P> of U(1): c_n = I_n(beta).

    Example:
        >>> round(plaquette_u1(1.0, 4096), 6)
        0.44639
    """
    n = np.arange(-60, 61)
    c = special.ive(np.abs(n), beta)
    d = 0.5 * (special.ive(np.abs(n - 1), beta) + special.ive(np.abs(n + 1), beta))
    return _mean(c, volume, d)


def plaquette_su2(beta: float, volume: int) -> float:
    """<tr P>/2 of SU(2): c_j = 2 I_{n}(beta) / beta with n = 2j + 1, over the dimension n.

    exp(beta tr U / 2) = sum_n (2 n I_n(beta) / beta) chi_n(U).

    Example:
        >>> round(plaquette_su2(2.7, 4), 6), round(plaquette_su2(2.7, 4096), 6)
        (0.551229, 0.532971)
    """
    n = np.arange(1, 80)
    c = 2 * special.ive(n, beta) / beta
    # d/dbeta (I_n/beta) = (I_{n-1} + I_{n+1})/2/beta - I_n/beta^2
    d = (special.ive(n - 1, beta) + special.ive(n + 1, beta)) / beta - 2 * special.ive(n, beta) / beta**2
    return _mean(c, volume, d)


def plaquette_su3(beta: float, volume: int) -> float:
    """Re <tr P>/3 of SU(3), with all representations (p, q) that matter.

    c_{pq} = (1/d_{pq}) sum_n det I_{lambda_j - j + i + n}(beta/3), lambda = (p + q, q, 0).

    Example:
        >>> round(plaquette_su3(6.0, 4096), 6)
        0.422532
    """
    step = 1e-4
    representations = [(p, q) for p in range(9) for q in range(9)]
    low, centre, high = (
        np.array([_su3_coefficient(p, q, b) for p, q in representations])
        for b in (beta - step, beta, beta + step)
    )
    return _mean(centre, volume, (high - low) / (2 * step))


def _su3_coefficient(p: int, q: int, beta: float) -> float:
    heights = (p + q, q, 0)
    dimension = (p + 1) * (q + 1) * (p + q + 2) / 2
    total = 0.0
    for n in range(-12, 13):
        matrix = [
            [special.iv(abs(heights[j] - j + i + n), beta / 3) for j in range(3)] for i in range(3)
        ]
        total += float(np.linalg.det(np.array(matrix)))
    return total / dimension


def plaquette_torus(group: str, beta: float, volume: int) -> float:
    """Mean plaquette of a group's two-dimensional Wilson theory.

    Raises:
        InputError: for a group without a formula here.
    """
    known: dict[str, Callable[[float, int], float]] = {
        "U(1)": plaquette_u1,
        "SU(2)": plaquette_su2,
        "SU(3)": plaquette_su3,
    }
    if group not in known:
        raise InputError(f"exact plaquettes are known here for {', '.join(known)}, got {group!r}")
    return known[group](beta, volume)


def charge_squared_u1(beta: float, volume: int) -> float:
    """<Q^2> of U(1) on a torus of V plaquettes.

    With c_n, s_n, d_n the integrals over one plaquette angle x of e^{beta cos x} times cos nx,
    x sin nx and x^2 cos nx: <Q^2> = sum_n [V c^{V-1} d - V (V-1) c^{V-2} s^2] / (4 pi^2 sum_n c^V).

    Example:
        >>> round(charge_squared_u1(1.0, 64), 5), round(charge_squared_u1(4.0, 256), 5)
        (2.60072, 1.93388)
    """
    orders = range(-30, 31)

    def integral(f: Callable[[float, int], float], n: int) -> float:
        def integrand(x: float) -> float:
            return f(x, n) * float(np.exp(beta * (np.cos(x) - 1)))

        return float(integrate.quad(integrand, -np.pi, np.pi, limit=400)[0])

    c = np.array([integral(lambda x, n: float(np.cos(n * x)), n) for n in orders])
    s = np.array([integral(lambda x, n: x * float(np.sin(n * x)), n) for n in orders])
    d = np.array([integral(lambda x, n: x * x * float(np.cos(n * x)), n) for n in orders])
    scale = c.max()
    c, s, d = c / scale, s / scale, d / scale
    v = volume
    numerator = (v * c ** (v - 1) * d - v * (v - 1) * c ** (v - 2) * s**2).sum()
    return float(numerator / (c**v).sum() / (4 * np.pi**2))
