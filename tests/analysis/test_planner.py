"""Numbers of configurations for bias-corrected estimates."""

from math import ceil, inf, nan, sqrt

import numpy as np
import pytest
import torch

from lattice_lightning.analysis import Costs, Moments, error_at_cost, plan
from lattice_lightning.exceptions import InputError

CASES = [
    (Moments(1.0, 1.0, 0.02), Costs(100.0, 1.0), 0.01),
    (Moments(1.0, 0.8, 0.3, 4.0, 6.0, 0.7), Costs(50.0, 0.5, 20.0, 1000.0), 0.02),
    (Moments(2.0, 1.9, 1e-5), Costs(10.0, 0.1), 0.03),  # less than one label would do
    (Moments(1.0, 1e-6, 1.0), Costs(10.0, 3.0), 0.05),  # a useless approximation
    (Moments(1.0, 1.0, 0.0), Costs(10.0, 1.0), 0.05),
]


def spreads(moments):
    a = moments.variance_approximation * 2 * moments.tau_approximation
    d = moments.variance_difference * 2 * moments.tau_difference
    return a, d


@pytest.mark.parametrize("moments, costs, target", CASES)
def test_plan_is_the_optimum(moments, costs, target):
    best = plan(moments, costs, target)
    a, d = spreads(moments)
    unlabelled = costs.approximation + costs.configuration
    labelled = costs.label + unlabelled
    rounding = unlabelled + labelled
    scanned = []
    for n_bc in range(1, 6 * best.n_bc + 10):
        left = target**2 - d / n_bc
        if left > 0:
            n_unlabelled = max(ceil(a / left), 1)
            scanned.append(costs.training + n_bc * labelled + n_unlabelled * unlabelled)
    assert min(scanned) - 1e-9 <= best.cost <= min(scanned) + rounding
    assert best.predicted_error <= target
    assert best.predicted_error == pytest.approx(sqrt(a / best.n_unlabelled + d / best.n_bc))
    assert best.cost == costs.training + best.n_bc * labelled + best.n_unlabelled * unlabelled
    full = moments.variance_full * 2 * moments.tau_full
    assert best.n_full == ceil(full / target**2)
    assert best.cost_full == best.n_full * (costs.label + costs.configuration)
    assert best.gain == pytest.approx(1 / best.cost_ratio) and best.gain == best.cost_full / best.cost


@pytest.mark.parametrize("moments, costs, target", CASES)
def test_budget_and_plan_agree(moments, costs, target):
    best = plan(moments, costs, target)
    corrected, full = error_at_cost(moments, costs, best.cost)
    # the same money cannot do worse than the rounded plan, nor much better
    assert corrected <= best.predicted_error * (1 + 1e-12)
    assert corrected >= 0.9 * target or best.n_bc == 1 or best.n_unlabelled == 1
    n_full = best.cost / (costs.label + costs.configuration)
    assert full == pytest.approx(sqrt(moments.variance_full * 2 * moments.tau_full / n_full))
    a, d = spreads(moments)
    unlabelled = costs.approximation + costs.configuration
    labelled = costs.label + unlabelled
    spare = best.cost - costs.training
    n_bc = np.linspace(1, (spare - 1e-9) / labelled, 20000)
    scan = np.sqrt(a / np.maximum((spare - n_bc * labelled) / unlabelled, 1e-12) + d / n_bc)
    assert corrected == pytest.approx(scan.min(), rel=1e-3)


def test_without_a_good_approximation_it_does_not_pay():
    costs = Costs(10.0, 1.0)
    assert plan(Moments(1.0, 1.0, 0.02), costs, 0.01).gain > 1
    assert plan(Moments(1.0, 1.0, 2.0), costs, 0.01).gain < 1
    assert plan(Moments(1.0, 1.0, 0.02), Costs(10.0, 1.0, training=1e6), 0.01).gain < 1


@pytest.mark.parametrize("r", [0.6, 0.95])
def test_predicted_error_is_realised(r):
    rng = np.random.default_rng(3)
    best = plan(Moments(1.0, 1.0, 2 * (1 - r)), Costs(20.0, 1.0), 0.05)
    means = []
    for _ in range(2000):
        labelled = rng.normal(size=best.n_bc)
        a_labelled = r * labelled + sqrt(1 - r**2) * rng.normal(size=best.n_bc)
        a = 0.3 + rng.normal(size=best.n_unlabelled)
        means.append(a.mean() + (labelled - a_labelled - 0.3).mean())
    ratio = np.std(means, ddof=1) / best.predicted_error
    assert abs(ratio - 1) < 3 / sqrt(2 * 2000)
    assert abs(np.mean(means)) < 4 * best.predicted_error / sqrt(2000)


def ar1(rng, shape, rho):
    """Stationary, variance one, tau_int = (1 + rho) / (2 (1 - rho))."""
    from scipy.signal import lfilter

    noise = rng.normal(size=shape) * sqrt(1 - rho**2)
    noise[:, 0] /= sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_autocorrelated_series(as_tensor):
    rng = np.random.default_rng(5)
    a, d = ar1(rng, (32, 4000), 0.8), 0.4 * ar1(rng, (32, 4000), 0.4)
    convert = torch.from_numpy if as_tensor else np.asarray
    moments = Moments.from_series(convert(a + d), convert(a))
    assert moments.tau_approximation == pytest.approx(4.5, rel=0.1)
    assert moments.tau_difference == pytest.approx(7 / 6, rel=0.1)
    assert moments.correlation == pytest.approx(np.corrcoef(a.ravel(), (a + d).ravel())[0, 1], abs=1e-4)
    best = plan(moments, Costs(10.0, 1.0), 0.04)
    assert best.n_bc > 100 and best.n_unlabelled > 100
    a = ar1(rng, (2000, best.n_unlabelled), 0.8)
    d = 0.4 * ar1(rng, (2000, best.n_bc), 0.4)
    realised = (a.mean(axis=1) + d.mean(axis=1)).std(ddof=1)
    assert realised == pytest.approx(best.predicted_error, rel=0.1)


def test_constant_difference_needs_no_tau():
    o = np.random.default_rng(1).integers(0, 10, size=(8, 200)).astype(float)
    moments = Moments.from_series(o, o - 2)
    assert moments.variance_difference == 0 and moments.tau_difference == 0.5
    assert plan(moments, Costs(10.0, 1.0), 0.1).n_bc == 1


@pytest.mark.parametrize(
    "arguments", [(-1, 1, 1), (1, nan, 1), (1, 1, inf), (1, 1, 1, 0.0), (1, 1, 1, 1, -2), (1, 1, 1, 1, 1, nan)]
)
def test_bad_moments(arguments):
    with pytest.raises(InputError):
        Moments(*arguments)


def test_anticorrelated_tau_is_allowed():
    assert plan(Moments(1, 1, 0.1, 0.32, 0.2, 0.1), Costs(1, 1), 0.1).n_full == 64


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (1, 0), (1, -1, 2), (1, 1, -1), (1, 1, 0, -1), (nan, 1), (1, inf)])
def test_bad_costs(arguments):
    with pytest.raises(InputError):
        Costs(*arguments)


def test_free_approximation_of_a_costly_configuration():
    assert plan(Moments(1, 1, 0.1), Costs(1.0, 0.0, 1.0), 0.1).gain > 0


@pytest.mark.parametrize("target", [0.0, -0.1, nan, inf, 1e-200])
def test_bad_target(target):
    with pytest.raises(InputError):
        plan(Moments(1, 1, 0.1), Costs(1, 1), target)


@pytest.mark.parametrize("budget", [0.0, 50.0, 112.9, nan, inf])
def test_budget_too_small(budget):
    with pytest.raises(InputError):
        error_at_cost(Moments(1, 1, 0.1), Costs(10, 1, 1, training=99), budget)


def test_bad_series():
    o = np.random.default_rng(1).normal(size=(8, 100))
    for pair in [(o, o[:, :50]), (o[0], o[0]), (o, np.full_like(o, nan)), (o, 0 * o), (0 * o, o), (o[:, :3], -o[:, :3])]:
        with pytest.raises(InputError):
            Moments.from_series(*pair)
    with pytest.raises(InputError):
        _ = Moments(1, 0, 1).correlation
