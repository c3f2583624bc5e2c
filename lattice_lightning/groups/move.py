"""exp(i w_a T_a) U of packed links as one expression for the compiler to fuse.

The same numbers as ``mul(exp(w), U)`` of the groups up to rounding, without derivatives. Sites and
chains are any trailing axes.
"""

from math import factorial, sqrt

import torch
from torch import Tensor

from lattice_lightning.groups.compiled import Fused

__all__ = ["move_quaternions", "move_su3"]

#: terms of the exponential series of X / 2^_HALVINGS; exact to rounding for |X| below 8
_TERMS, _HALVINGS = 17, 3

Complex = tuple[Tensor, Tensor]


def _times(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _plus(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _quaternions(omega: Tensor, u: Tensor) -> Tensor:
    x = 0.25 * (omega[0] * omega[0] + omega[1] * omega[1] + omega[2] * omega[2])
    # below, the series of sin(r)/r is exact to rounding; above, r is far from zero
    small = x < 1e-2
    root = torch.sqrt(torch.where(small, 1.0, x))
    series = 1 - x / 6 * (1 - x / 20 * (1 - x / 42 * (1 - x / 72 * (1 - x / 110))))
    half_sinc = 0.5 * torch.where(small, series, torch.sin(root) / root)
    series = 1 - x / 2 * (1 - x / 12 * (1 - x / 30 * (1 - x / 56 * (1 - x / 90 * (1 - x / 132)))))
    e0 = torch.where(small, series, torch.cos(root))
    e1, e2, e3 = half_sinc * omega[0], half_sinc * omega[1], half_sinc * omega[2]
    return torch.stack(
        [
            e0 * u[0] - e1 * u[1] - e2 * u[2] - e3 * u[3],
            e0 * u[1] + e1 * u[0] - e2 * u[3] + e3 * u[2],
            e0 * u[2] + e2 * u[0] - e3 * u[1] + e1 * u[3],
            e0 * u[3] + e3 * u[0] - e1 * u[2] + e2 * u[1],
        ]
    )


def _exponent_su3(w: Tensor) -> list[list[Complex]]:
    """i w_a T_a of the generators of :func:`lattice_lightning.groups.sun.generators`."""
    zero = torch.zeros_like(w[0])
    x: list[list[Complex]] = [[(zero, zero)] * 3 for _ in range(3)]
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        symmetric, antisymmetric = 0.5 * w[2 * k], 0.5 * w[2 * k + 1]
        x[i][j], x[j][i] = (antisymmetric, symmetric), (-antisymmetric, symmetric)
    third, eighth = 0.5 * w[6], w[7] / sqrt(12)
    x[0][0], x[1][1], x[2][2] = (zero, third + eighth), (zero, eighth - third), (zero, -2 * eighth)
    return x


def _series_su3(t: Tensor, d: Tensor) -> list[Complex]:
    """Coefficients of exp(X) = q0 + q1 X + q2 X^2 for X^3 = t X + i d."""
    scale = 1 / 2**_HALVINGS
    t, d = t * scale**2, d * scale**3
    zero = torch.zeros_like(t)
    q: list[Complex] = [(zero + 1 / factorial(_TERMS), zero), (zero, zero), (zero, zero)]
    for n in range(_TERMS - 1, -1, -1):
        (r0, i0), (r1, i1), (r2, i2) = q
        q = [(1 / factorial(n) - i2 * d, r2 * d), (r0 + r2 * t, i0 + i2 * t), (r1, i1)]
    for _ in range(_HALVINGS):
        # the square, with X^3 and X^4 = t X^2 + i d X reduced
        q0, q1, q2 = q
        c12, c22 = _times(q1, q2), _times(q2, q2)
        c12 = 2 * c12[0], 2 * c12[1]
        c01, c02 = _times(q0, q1), _times(q0, q2)
        n0 = _plus(_times(q0, q0), (-c12[1] * d, c12[0] * d))
        n1 = _plus(
            (2 * c01[0], 2 * c01[1]), (c12[0] * t - c22[1] * d, c12[1] * t + c22[0] * d)
        )
        n2 = _plus(_times(q1, q1), (2 * c02[0] + c22[0] * t, 2 * c02[1] + c22[1] * t))
        q = [n0, n1, n2]
    return [q[0], (q[1][0] * scale, q[1][1] * scale), (q[2][0] * scale**2, q[2][1] * scale**2)]


def _on_vector(x: list[list[Complex]], v: list[Complex]) -> list[Complex]:
    return [_plus(_plus(_times(row[0], v[0]), _times(row[1], v[1])), _times(row[2], v[2])) for row in x]


def _su3(omega: Tensor, u: Tensor) -> Tensor:
    x = _exponent_su3(omega)
    squares = omega[0] * omega[0]
    for a in range(1, 8):
        squares = squares + omega[a] * omega[a]
    # t = tr X^2 / 2, i d = det X
    minors = [
        _plus(_times(x[1][j], x[2][k]), tuple(-c for c in _times(x[1][k], x[2][j])))  # type: ignore[arg-type]
        for j, k in ((1, 2), (2, 0), (0, 1))
    ]
    d = sum((_times(x[0][j], minors[j])[1] for j in range(3)), torch.zeros_like(squares))
    q0, q1, q2 = _series_su3(-0.25 * squares, d)
    # exp(X) U = q0 U + X (q1 U + q2 X U), columns of U along one axis
    v0: list[Complex] = [(u[0, i], u[1, i]) for i in range(3)]
    inner = [_plus(_times(q1, a), _times(q2, b)) for a, b in zip(v0, _on_vector(x, v0), strict=True)]
    moved = [_plus(_times(q0, a), b) for a, b in zip(v0, _on_vector(x, inner), strict=True)]
    # one stack: a stack of stacks would be written twice
    return torch.stack([part[c] for c in (0, 1) for part in moved]).unflatten(0, (2, 3))


#: w ``[3, ...]``, U ``[4, ...]``
move_quaternions = Fused(_quaternions)
#: w ``[8, ...]``, U ``[2, 3, 3, ...]``
move_su3 = Fused(_su3)
