"""Rational-quadratic splines: knots, slopes, inverse, derivative, tails and periodicity."""

from math import pi

import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.models.splines import (
    MIN_BIN,
    MIN_SLOPE,
    circular_rational_quadratic,
    rational_quadratic,
)

BINS = 6
KINDS = ["interval", "circle"]


def make(kind, rng, n=400, scale=1.0, dtype=torch.float64):
    """Points, and a map of them with random parameters."""
    n_slopes = BINS - 1 if kind == "interval" else BINS
    parameters = [
        (scale * torch.randn(n, k, generator=rng, dtype=torch.float64)).to(dtype) for k in (BINS, BINS, n_slopes)
    ]
    uniform = torch.rand(n, generator=rng, dtype=torch.float64)
    if kind == "interval":
        # the spline lives on [-2, 3], the points on [-3, 4]
        x = 7 * uniform - 3
        return x, lambda y, inverse=False: rational_quadratic(y, *parameters, inverse, left=-2.0, right=3.0)
    x = pi - 2 * pi * uniform
    return x, lambda y, inverse=False: circular_rational_quadratic(y, *parameters, inverse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inverse(kind, dtype, rng):
    """Whatever the parameters' dtype, the map inverts in the points' double precision."""
    x, spline = make(kind, rng, scale=2.0, dtype=dtype)
    y, log_derivative = spline(x)
    back, minus = spline(y, inverse=True)
    assert y.dtype == torch.float64
    assert float((y - x).abs().max()) > 0.5
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(minus, -log_derivative, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inverse", [False, True])
def test_derivative(kind, inverse, rng):
    x, spline = make(kind, rng)
    x.requires_grad_()
    y, log_derivative = spline(x, inverse)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    assert bool((derivative > 0).all())
    torch.testing.assert_close(log_derivative, derivative.log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind, rng):
    x, spline = make(kind, rng, scale=0.5)
    y, log_derivative = spline(x.float())
    assert y.dtype == log_derivative.dtype == torch.float32
    torch.testing.assert_close(y.double(), spline(x)[0], rtol=0, atol=2e-5)


def test_knots_and_slopes(rng):
    """It passes through the knots with their slopes: an evaluation that shares no code with it."""
    w, h, s = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (BINS, BINS, BINS - 1))
    share_w, share_h = (MIN_BIN + (1 - BINS * MIN_BIN) * torch.exp(p) / torch.exp(p).sum() for p in (w, h))
    knots_x, knots_y = -1 + 2 * share_w.cumsum(0)[:-1], -1 + 2 * share_h.cumsum(0)[:-1]
    # softplus shifted so that zero gives one
    expected = MIN_SLOPE + torch.log(1 + torch.exp(s) * (torch.e ** (1 - MIN_SLOPE) - 1))
    for side in (-1e-9, 0.0, 1e-9):
        y, log_derivative = rational_quadratic(knots_x + side, w, h, s)
        torch.testing.assert_close(y, knots_y + side * expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(log_derivative.exp(), expected, rtol=1e-6, atol=0)


def test_rational_quadratic_between_knots(rng):
    """Equation 4 of 1906.04032, written out for one bin of two."""
    w, h, s = torch.tensor([0.3, -0.2]).double(), torch.tensor([-0.4, 0.5]).double(), torch.tensor([0.7]).double()
    wide, high = (MIN_BIN + (1 - 2 * MIN_BIN) * torch.softmax(p, 0)[0] for p in (w, h))
    d1 = MIN_SLOPE + torch.log(1 + torch.exp(s[0]) * (torch.e ** (1 - MIN_SLOPE) - 1))
    xi = torch.linspace(0.05, 0.95, 7).double()
    slope = high / wide
    top = high * (slope * xi**2 + xi * (1 - xi))
    expected = top / (slope + (d1 + 1 - 2 * slope) * xi * (1 - xi))
    y, _ = rational_quadratic(xi * wide, w, h, s, left=0.0, right=1.0)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)


def test_tails_are_the_identity(rng):
    x = torch.tensor([-5.0, -1.0, 1.0, 7.0], dtype=torch.float64)
    y, log_derivative = rational_quadratic(x, *(torch.randn(4, k, generator=rng) for k in (BINS, BINS, BINS - 1)))
    assert torch.equal(y, x) and torch.equal(log_derivative, torch.zeros_like(x))
    # slope one just inside of both ends
    x = torch.tensor([-1 + 1e-9, 1 - 1e-9], dtype=torch.float64)
    _, log_derivative = rational_quadratic(x, *(torch.randn(2, k, generator=rng) for k in (BINS, BINS, BINS - 1)))
    assert float(log_derivative.abs().max()) < 1e-6


def test_circle_closes(rng):
    """pi is fixed, its slope is that of -pi, and full turns change nothing."""
    parameters = [torch.randn(1, BINS, generator=rng, dtype=torch.float64) for _ in range(3)]

    def spline(x):
        return circular_rational_quadratic(torch.tensor([x], dtype=torch.float64), *parameters)

    for end in (pi, -pi):
        assert float(spline(end)[0]) == pytest.approx(pi, abs=1e-14)
    below, above = spline(pi - 1e-9), spline(-pi + 1e-9)
    assert float(below[1]) == pytest.approx(float(above[1]), abs=1e-6)
    assert abs(float(below[1])) > 0.01
    for image, turned in zip(spline(0.7), spline(0.7 - 4 * pi), strict=True):
        torch.testing.assert_close(image, turned, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_parameters_are_the_identity(kind, rng):
    x, spline = make(kind, rng, scale=0.0)
    y, log_derivative = spline(x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    assert float(log_derivative.abs().max()) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_by_parameters(kind, inverse, rng):
    n_slopes = BINS - 1 if kind == "interval" else BINS
    inputs = [torch.randn(5, k, generator=rng, dtype=torch.float64, requires_grad=True) for k in (BINS, BINS, n_slopes)]
    x = torch.tensor([-2.0, -0.8, 0.05, 0.6, 1.5], dtype=torch.float64, requires_grad=True)
    function = rational_quadratic if kind == "interval" else circular_rational_quadratic
    assert torch.autograd.gradcheck(lambda y, *p: function(y, *p, inverse), (x, *inputs), fast_mode=True)


def test_gradients_are_finite_at_knots_and_far_outside(rng):
    x = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6], dtype=torch.float64)
    for inverse in (False, True):
        inputs = [torch.zeros(5, k, dtype=torch.float64, requires_grad=True) for k in (4, 4, 3)]
        y, log_derivative = rational_quadratic(x.requires_grad_(), *inputs, inverse)
        for gradient in torch.autograd.grad((y + log_derivative).sum(), [x, *inputs]):
            assert bool(torch.isfinite(gradient).all())


def test_parameters_that_do_not_belong_together():
    x = torch.zeros(1)
    with pytest.raises(InputError, match=r"bins - 1 .* slopes, got 4 widths, 4 heights, 4 slopes"):
        rational_quadratic(x, torch.zeros(4), torch.zeros(4), torch.zeros(4))
    with pytest.raises(InputError, match="got 4 widths, 3 heights"):
        circular_rational_quadratic(x, torch.zeros(4), torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match="at least 2 bins"):
        circular_rational_quadratic(x, torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(InputError, match="left < right"):
        rational_quadratic(x, torch.zeros(4), torch.zeros(4), torch.zeros(3), left=1.0, right=1.0)
