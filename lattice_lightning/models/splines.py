"""Monotonic rational-quadratic splines (1906.04032), elementwise, on an interval or on the circle.

Parameters are unnormalised and stand on the last axis, one set for each element of x: logarithms of
the bins' relative widths and heights, ``[..., bins]``, and slopes at the knots, mapped by a shifted
softplus. Zero parameters are the identity. The spline is evaluated in the dtype of x, whatever that of
the parameters, so that networks in single precision give maps that invert in double precision.
"""

from math import expm1, log, pi

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from lattice_lightning.exceptions import InputError

__all__ = ["circular_rational_quadratic", "rational_quadratic"]

# smallest share of a bin in the interval, and smallest slope at a knot: what bounds the loss of digits
# in the inverse (the slope inside a bin can be as small as the cube of its height over its width)
MIN_BIN = 1e-2
MIN_SLOPE = 1e-2


def rational_quadratic(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    inverse: bool = False,
    *,
    left: float = -1.0,
    right: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Spline of [left, right] onto itself, the identity outside, with slope 1 at both ends.

    Args:
        x: points, ``[...]``.
        widths: unnormalised widths of the bins, ``[..., bins]``.
        heights: unnormalised heights, ``[..., bins]``.
        slopes: unnormalised slopes at the inner knots, ``[..., bins - 1]``.
        inverse: map back instead.
        left: lower end of the interval.
        right: upper end.

    Returns:
        The image and the logarithm of the derivative of the map that was asked for, ``[...]`` each.

    Raises:
        InputError: for numbers of parameters that do not belong together, or an empty interval.

    Example:
        >>> x = torch.tensor([-2.0, 0.3], dtype=torch.float64)
        >>> y, log_derivative = rational_quadratic(x, torch.zeros(8), torch.zeros(8), torch.zeros(7))
        >>> torch.allclose(y, x), float(log_derivative.abs().max()) < 1e-12
        (True, True)
    """
    if not left < right:
        raise InputError(f"a spline needs left < right, got [{left}, {right}]")
    _check(widths, heights, slopes, widths.shape[-1] - 1, "bins - 1 (the inner knots)")
    inside = (x > left) & (x < right)
    # a point outside is evaluated at an end, so that its unused branch has finite gradients
    knot_slopes = pad(_slopes(slopes, x), (1, 1), value=1.0)
    y, log_derivative = _spline(x.clamp(left, right), widths, heights, knot_slopes, inverse, left, right)
    return torch.where(inside, y, x), torch.where(inside, log_derivative, torch.zeros_like(x))


def circular_rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Spline of the circle onto itself (2002.02428): one slope at pi and -pi, which is a fixed point.

    Args:
        x: angles, ``[...]``; taken to (-pi, pi].
        widths: unnormalised widths of the bins, ``[..., bins]``.
        heights: unnormalised heights, ``[..., bins]``.
        slopes: unnormalised slopes at the knots, the first at -pi, ``[..., bins]``.
        inverse: map back instead.

    Returns:
        The image in (-pi, pi] and the logarithm of the derivative of the map that was asked for.

    Raises:
        InputError: for numbers of parameters that do not belong together.

    Example:
        >>> x, rng = torch.tensor([3.0, -1.0]).double(), torch.Generator().manual_seed(1)
        >>> parameters = [torch.randn(2, 6, generator=rng) for _ in range(3)]
        >>> y, _ = circular_rational_quadratic(x, *parameters)
        >>> torch.allclose(circular_rational_quadratic(y, *parameters, inverse=True)[0], x)
        True
    """
    _check(widths, heights, slopes, widths.shape[-1], "bins")
    x = pi - torch.remainder(pi - x, 2 * pi)
    knot_slopes = _slopes(slopes, x)
    knot_slopes = torch.cat([knot_slopes, knot_slopes[..., :1]], -1)
    return _spline(x, widths, heights, knot_slopes, inverse, -pi, pi)


def _check(widths: Tensor, heights: Tensor, slopes: Tensor, n_slopes: int, meaning: str) -> None:
    bins = widths.shape[-1]
    if heights.shape[-1] != bins or slopes.shape[-1] != n_slopes or not 2 <= bins < 1 / MIN_BIN:
        raise InputError(
            f"a spline needs at least 2 bins with one width and one height each, and {meaning} slopes, "
            f"got {bins} widths, {heights.shape[-1]} heights, {slopes.shape[-1]} slopes"
        )


def _slopes(raw: Tensor, x: Tensor) -> Tensor:
    # softplus(log(e^s - 1)) = s: zero gives slope 1
    return MIN_SLOPE + softplus(raw.to(x.dtype) + log(expm1(1 - MIN_SLOPE)))


def _knots(raw: Tensor, x: Tensor, left: float, right: float) -> Tensor:
    """Positions of the knots, ``[..., bins + 1]``, the last exactly at the end."""
    bins = raw.shape[-1]
    share = MIN_BIN + (1 - MIN_BIN * bins) * raw.to(x.dtype).softmax(-1)
    inner = left + (right - left) * share[..., :-1].cumsum(-1)
    return pad(pad(inner, (1, 0), value=left), (0, 1), value=right)


def _spline(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool, left: float, right: float
) -> tuple[Tensor, Tensor]:
    """The spline through the knots for points in [left, right]; 1906.04032, equations 4-8."""
    knots_x, knots_y = _knots(widths, x, left, right), _knots(heights, x, left, right)
    # few bins: counting the knots below x is faster than a search, and compiles
    knots = knots_y if inverse else knots_x
    bin_index = (x.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)

    def pick(table: Tensor, offset: int) -> Tensor:
        table = table.expand(*x.shape, table.shape[-1])
        return table.gather(-1, bin_index + offset).squeeze(-1)

    x0, y0 = pick(knots_x, 0), pick(knots_y, 0)
    width, height = pick(knots_x, 1) - x0, pick(knots_y, 1) - y0
    d0, d1 = pick(slopes, 0), pick(slopes, 1)
    s = height / width
    curvature = d0 + d1 - 2 * s
    if inverse:
        eta = x - y0
        a = height * (s - d0) + eta * curvature
        b = height * d0 - eta * curvature
        c = -s * eta
        # positive by monotonicity; this form of the root does not cancel
        root = (b.square() - 4 * a * c).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        t = (-2 * c / (b + root)).clamp(0.0, 1.0)
        image = x0 + t * width
    else:
        t = (x - x0) / width
        image = y0 + height * t * (s * t + d0 * (1 - t)) / (s + curvature * t * (1 - t))
    both = t * (1 - t)
    numerator = s.square() * (d1 * t.square() + 2 * s * both + d0 * (1 - t).square())
    log_derivative = numerator.log() - 2 * (s + curvature * both).log()
    return image, -log_derivative if inverse else log_derivative
