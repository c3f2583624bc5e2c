"""Functions of bias-corrected averages: cumulants in closed form, against a bootstrap, wrong ones rejected."""

from math import sqrt

import numpy as np
import pytest
import torch

from lattice_lightning.analysis.cumulants import CUMULANTS, cumulant, predicted_moments, shifted_moments
from lattice_lightning.analysis.derived import corrected_function, estimate_function, linearised
from lattice_lightning.exceptions import InputError


def gamma_moments(order, shape=3.0, scale=0.4):
    """Raw moments of a gamma distribution, whose cumulants are (j-1)! shape scale^j."""
    moments, product = [], 1.0
    for k in range(order):
        product *= (shape + k) * scale
        moments.append(product)
    return torch.tensor(moments, dtype=torch.float64)


@pytest.mark.parametrize("offset", [0.0, 0.7, -2.0])
def test_cumulants_of_a_known_distribution(offset):
    volume, shape, scale = 10, 3.0, 0.4
    moments = torch.as_tensor(shifted_moments(gamma_moments(4).numpy()[:, None], offset)[:, 0])
    exact = {
        "condensate": shape * scale, "susceptibility": volume * shape * scale**2,
        "skewness": 2 / sqrt(shape), "kurtosis": 6 / shape,
    }
    for k, name in enumerate(CUMULANTS, 1):
        value = cumulant(name, volume, offset)(moments[:k])
        assert float(value) == pytest.approx(exact[name], rel=1e-9)


def test_shifted_moments_are_those_of_the_shifted_numbers():
    x = np.random.default_rng(1).normal(0.5, 0.1, size=(4, 50))
    about_zero, shifted = [x**k for k in (1, 2, 3, 4)], [(x - 0.4) ** k for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(shifted_moments(about_zero, 0.4), shifted, atol=1e-14)


@pytest.mark.parametrize("n_fields", [1, 2])
def test_predicted_moments_are_derivatives_of_the_weight(n_fields):
    """On one configuration: the polynomial prod (m + i lambda)^n_fields, differentiated."""
    eigenvalues = 1j * np.random.default_rng(7).normal(size=6)
    eigenvalues, mass, volume = np.concatenate([eigenvalues, -eigenvalues]), 0.8, 12
    weight = np.poly1d(np.poly(-np.tile(eigenvalues, n_fields)))
    exact = [(weight.deriv(k)(mass) / weight(mass)).real / volume**k for k in (1, 2, 3, 4)]
    traces = {n: ((mass + eigenvalues) ** -n).sum().real / volume for n in (1, 2, 3, 4)}
    powers = [np.array([traces[1] ** k]) for k in (1, 2, 3, 4)]
    found = predicted_moments(powers, {n: np.array([traces[n]]) for n in (2, 3, 4)}, volume, n_fields)
    np.testing.assert_allclose(found[:, 0], exact, rtol=1e-9)


def test_linearised_series_has_value_and_gradient():
    rng = np.random.default_rng(2)
    series, means = rng.normal(1.0, 0.2, size=(3, 4, 30)), np.array([1.0, 1.1, 0.9])

    def function(m):
        return m[0] ** 2 * m[1] / m[2]

    line = linearised(function, series, means)
    step = 1e-6
    gradient = [
        (function(torch.tensor(means + step * unit)) - function(torch.tensor(means - step * unit))) / (2 * step)
        for unit in np.eye(3)
    ]
    expected = float(function(torch.tensor(means))) + sum(
        float(g) * (series[k] - means[k]) for k, g in enumerate(gradient)
    )
    np.testing.assert_allclose(line, expected, atol=1e-7)


# -- a synthetic ensemble whose susceptibility is known -----------------------------------------

TRUTH = 1.0 + 0.3**2


def draw(rng, n_chains=16, n_labels=60, n_unlabelled=400):
    """Moments of q = x + 0.3 y, and of an approximation 0.9 x + 0.1 that knows x alone."""
    x, y = rng.normal(size=(2, n_chains, n_labels + n_unlabelled))
    q, a = 2.0 + x + 0.3 * y, 2.1 + 0.9 * x
    exact, guess = np.stack([q, q**2]), np.stack([a, a**2])
    return exact[..., :n_labels], guess[..., :n_labels], guess[..., n_labels:]


def variance(m):
    return m[1] - m[0] ** 2


@pytest.mark.parametrize("form", ["all", "unlabelled"])
def test_corrected_cumulant_covers_the_truth(form):
    rng = np.random.default_rng(3)
    results = [corrected_function(variance, *draw(rng), form) for _ in range(300)]
    pulls = np.array([(r.value - TRUTH) / r.error for r in results])
    # the larger of two errors is quoted: a little wide is right, narrow is not
    assert abs(pulls.mean()) < 3.5 / sqrt(len(pulls))
    assert 0.65 < pulls.std() < 1.1
    biased = np.array([(r.uncorrected.value - TRUTH) / r.uncorrected.error for r in results])
    assert abs(biased.mean()) > 5


def test_cumulant_formed_before_the_correction_is_rejected():
    """Correcting a variance by the difference of variances is biased on few labels: by -Var(D)/N and worse."""
    rng = np.random.default_rng(4)

    def wrong(o, a, u):
        few = slice(0, 4)
        return u[0].var() + np.mean([
            o[0, c, few].var() - a[0, c, few].var() for c in range(o.shape[1])
        ])

    values = np.array([wrong(*draw(rng)) for _ in range(200)])
    assert abs(values.mean() - TRUTH) > 5 * values.std() / sqrt(len(values))


def test_error_against_a_bootstrap_over_chains():
    rng = np.random.default_rng(5)
    o, a, u = draw(rng, n_chains=64)
    result = corrected_function(variance, o, a, u)
    share = u[0].size / (u[0].size + a[0].size)
    values = []
    for _ in range(500):
        pick = rng.integers(0, 64, 64)
        means = share * u[:, pick].mean((1, 2)) + (1 - share) * a[:, pick].mean((1, 2)) + (
            o[:, pick] - a[:, pick]
        ).mean((1, 2))
        values.append(means[1] - means[0] ** 2)
    assert result.error_chains == pytest.approx(np.std(values), rel=0.2)
    assert result.error_gamma == pytest.approx(np.std(values), rel=0.3)


def test_bad_input():
    o, a, u = draw(np.random.default_rng(6))
    with pytest.raises(InputError, match="got 2 labels, 1 approximations and 2 unlabelled"):
        corrected_function(variance, o, a[:1], u)
    with pytest.raises(InputError, match="the cumulants are condensate, susceptibility"):
        cumulant("charge", 16)
    with pytest.raises(InputError, match="more configurations are needed"):
        estimate_function(lambda m: torch.sqrt(m[0] - 100), o, "root")
