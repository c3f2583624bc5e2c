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

__all__ = [
    "charge_squared_u1",
    "log_z_torus",
    "plaquette_su2",
    "plaquette_su3",
    "plaquette_torus",
    "plaquette_u1",
    "wilson_loop_torus",
]

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
    if beta == 0:
        return 0.0
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


def _su3_tensor_fundamental(p: int, q: int) -> list[tuple[int, int]]:
    candidates = ((p + 1, q), (p - 1, q + 1), (p, q - 1))
    return [(a, b) for a, b in candidates if a >= 0 and b >= 0]


def _characters(group: str, beta: float) -> tuple[Array, Array, dict[tuple[int, int], float]]:
    """c_r of one plaquette weight exp(beta (Re tr P/N - 1)) and d_r for every r, and the pairs (r, s).

    A pair has s in the product of r and the fundamental representation, with its multiplicity one.
    """
    if group == "U(1)":
        charges = np.arange(-60, 61)
        pairs = {(k, k + 1): 1.0 for k in range(len(charges) - 1)}
        return special.ive(np.abs(charges), beta), np.ones(len(charges)), pairs
    if group == "SU(2)":
        n = np.arange(1, 80)
        # ive(n, beta) / beta is 0/0 without a coupling
        c = 2 * special.ive(n, beta) / beta if beta > 0 else (n == 1).astype(float)
        both = [(k, k + s) for k in range(len(n)) for s in (-1, 1)]
        return c, n.astype(float), {(r, s): 1.0 for r, s in both if 0 <= s < len(n)}
    if group == "SU(3)":
        weights = [(p, q) for p in range(9) for q in range(9)]
        index = {w: k for k, w in enumerate(weights)}
        c = np.exp(-beta) * np.array([_su3_coefficient(p, q, beta) for p, q in weights])
        d = np.array([(p + 1) * (q + 1) * (p + q + 2) / 2 for p, q in weights])
        products = ((k, w) for k, r in enumerate(weights) for w in _su3_tensor_fundamental(*r))
        return c, d, {(k, index[w]): 1.0 for k, w in products if w in index}
    raise InputError(f"characters are known here for U(1), SU(2), SU(3), got {group!r}")


def log_z_torus(group: str, beta: float, volume: int) -> float:
    """log Z of S = beta sum (1 - Re tr P/N) on V plaquettes, links in the normalised Haar measure.

    Z = exp(-beta V) sum_r c_r^V. What the mean importance weight of a flow estimates.

    Raises:
        InputError: for a group without a formula here.

    Example:
        >>> log_z_torus("U(1)", 0.0, 16)
        0.0
    """
    c = _characters(group, beta)[0]
    top = float(c.max())
    return float(volume * np.log(top) + np.log(((c / top) ** volume).sum()))


def wilson_loop_torus(group: str, beta: float, volume: int, area: int) -> float:
    """Re <tr W>/N of a contractible loop around ``area`` of the V plaquettes of a torus.

    <W> = sum_{r, s in r x f} (d_s / d_r) c_r^{V-A} c_s^A / (N sum_r c_r^V), the area law P^A of the
    infinite plane for large V.

    Raises:
        InputError: for a group without a formula here, or an area outside 0 ... V.

    Example:
        >>> round(wilson_loop_torus("SU(2)", 2.7, 4096, 4), 6), round(plaquette_su2(2.7, 4096) ** 4, 6)
        (0.080689, 0.080689)
    """
    if not 0 <= area <= volume:
        raise InputError(f"a loop on {volume} plaquettes has an area from 0 to {volume}, got {area}")
    c, d, pairs = _characters(group, beta)
    c = c / c.max()
    n_colors = {"U(1)": 1, "SU(2)": 2, "SU(3)": 3}[group]
    loops = sum(m * d[s] / d[r] * c[r] ** (volume - area) * c[s] ** area for (r, s), m in pairs.items())
    return float(loops / (n_colors * (c**volume).sum()))
