"""Errors of averages: coverage on AR(1) series of known autocorrelation, and the special cases."""

from math import exp, sqrt

import numpy as np
import pytest
import torch

from lattice_lightning.analysis import (
    acceptance,
    autocorrelation_function,
    estimate,
    exp_minus_dH,
    split_rhat,
)
from lattice_lightning.exceptions import InputError


def decay(tau):
    """Correlation of neighbours of an AR(1) series with this integrated autocorrelation time."""
    return (2 * tau - 1) / (2 * tau + 1)


def ar1(shape, tau, seed):
    """Stationary series ``[..., steps]`` of variance one and mean zero."""
    rng, rho = np.random.default_rng(seed), decay(tau)
    series = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        series[..., t] = rho * series[..., t - 1] + sqrt(1 - rho**2) * series[..., t]
    return series


def true_error(chains, steps, tau):
    t = np.arange(1, steps)
    return sqrt((1 + 2 * ((1 - t / steps) * decay(tau) ** t).sum()) / (chains * steps))


# chains, steps, tau, repetitions, range of the fraction called reliable
REGIMES = {
    "many_short": (64, 20, 9.5, 150, (0, 0)),
    "many_independent": (64, 20, 0.5, 150, (0.9, 1)),
    "too_short": (16, 100, 9.5, 250, (0, 0.02)),
    "long_enough": (16, 100, 2.0, 250, (0.6, 1)),
    "long": (16, 2000, 9.5, 250, (0.8, 1)),
    "long_and_fast": (16, 2000, 2.0, 250, (0.8, 1)),
    "two_long": (2, 4000, 5.0, 250, (0.9, 1)),
    "one_short": (1, 200, 9.5, 250, (0, 0.05)),
}


@pytest.mark.parametrize("name", REGIMES)
def test_quoted_error_covers_the_truth(name):
    chains, steps, tau, n, (least, most) = REGIMES[name]
    results = [estimate(series) for series in ar1((n, chains, steps), tau, seed=1)]
    value, error = np.array([(r.value, r.error) for r in results]).T
    reliable = np.array([r.reliable for r in results])
    truth = true_error(chains, steps, tau)
    coverage = (np.abs(value) < error).mean()
    print(
        f"{name}: coverage {coverage:.3f}, mean error / true {error.mean() / truth:.2f}, "
        f"smallest {error.min() / truth:.2f}, reliable {reliable.mean():.2f}"
    )
    assert least <= reliable.mean() <= most
    if chains >= 8 or most == 1:
        # quoting the larger of two estimates may cover a little more, never less
        assert -3 * sqrt(0.683 * 0.317 / n) < coverage - 0.683 < 0.15
    if least > 0:
        assert error[reliable].mean() == pytest.approx(truth, rel=0.2)
        assert error[reliable].min() > 0.6 * truth


def test_gamma_method_alone_is_too_small_on_short_chains():
    result = estimate(ar1((64, 20), 9.5, seed=2))
    assert result.error_gamma < 0.5 * result.error_chains == 0.5 * result.error
    assert not result.reliable and "the two errors disagree" in result.reason


def test_autocorrelation_time_and_effective_number():
    results = [estimate(series) for series in ar1((20, 16, 2000), 5.0, seed=3)]
    assert np.mean([r.tau_int for r in results]) == pytest.approx(5.0, rel=0.15)
    for r in results:
        assert r.n_effective == pytest.approx(16 * 2000 / (2 * r.tau_int))


def test_autocorrelation_function():
    rho = autocorrelation_function(ar1((64, 4000), 5.0, seed=4), 10)
    assert np.allclose(rho, decay(5.0) ** np.arange(11), atol=0.02)
    assert len(autocorrelation_function(np.random.default_rng(1).normal(size=(2, 5)), 10)) == 5
    assert np.isnan(autocorrelation_function(np.ones((2, 5)), 3)).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_proportion_that_never_varied_has_the_rule_of_three(value):
    result = acceptance(torch.full((8, 50), value))
    assert (result.value, result.error, result.reliable) == (value, 3 / 400, True)


@pytest.mark.parametrize("value", [2.0, -1.0, 0.37])
def test_frozen_series_has_no_error(value):
    result = estimate(np.full((8, 50), value), "topological_charge")
    assert result.error is None and result.n_effective is None and result.rhat is None
    assert not result.reliable and result.reason == "the series never varied"


@pytest.mark.parametrize("charges", [(0, 0, 0, 1), (-1, 0, 2, 1)])
def test_charges_frozen_in_every_chain_are_not_reliable(charges):
    """The series varies from chain to chain, but in no chain."""
    result = estimate(np.repeat(np.array([charges * 4]).T, 100, 1).astype(float), "topological_charge")
    assert not result.reliable


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_charge_frozen_at_zero_or_one_is_no_proportion(value):
    result = estimate(np.full((8, 50), value), "topological_charge")
    assert result.error is None and not result.reliable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_named(bad):
    series = np.zeros((3, 4))
    series[1, 2] = bad
    with pytest.raises(InputError, match=r"plaquette: -?(nan|inf) at chain 1, step 2 \(1 in all\)"):
        estimate(series, "plaquette")


@pytest.mark.parametrize("shape", [(4,), (2, 0), (0, 3), (2, 3, 4)])
def test_wrong_shape(shape):
    with pytest.raises(InputError, match=r"\[chains, steps\], got shape"):
        estimate(np.zeros(shape))


def test_few_steps_have_no_autocorrelation_time():
    many = estimate(ar1((32, 3), 0.5, seed=5))
    assert many.error == many.error_chains and many.error_gamma is None and not many.reliable
    few = estimate(ar1((2, 3), 0.5, seed=5))
    assert few.error is None and "3 steps are too few" in few.reason


def test_rhat():
    mixed = ar1((16, 500), 1.0, seed=6)
    assert split_rhat(mixed) == pytest.approx(1, abs=0.01)
    # two halves of the chains three standard deviations apart: variance (1 + 9/4) over 1
    apart = mixed + 3 * (np.arange(16) % 2)[:, None]
    assert split_rhat(apart) == pytest.approx(sqrt(1 + 9 / 4 * 16 / 15), rel=0.05)
    # every chain drifts: whole chains agree with each other, their halves do not
    drift = mixed + np.linspace(-2, 2, 500)
    assert split_rhat(drift) > 1.2
    assert split_rhat(np.ones((4, 10))) is None and split_rhat(mixed[:, :3]) is None


def test_unmixed_chains_are_not_reliable():
    result = estimate(ar1((16, 500), 1.0, seed=6) + (np.arange(16) % 2)[:, None])
    assert not result.reliable and result.rhat > 1.05
    few = estimate(ar1((4, 500), 1.0, seed=6) + (np.arange(4) % 2)[:, None])
    assert not few.reliable


def test_exp_minus_dH_weighs_failures_zero():
    delta = np.array([[0.0, 1.0, np.nan, np.inf, -np.inf, 0.5]])
    assert exp_minus_dH(delta).value == pytest.approx((1 + exp(-1) + exp(-0.5)) / 6)
    assert exp_minus_dH(torch.from_numpy(delta)).value == exp_minus_dH(delta).value
