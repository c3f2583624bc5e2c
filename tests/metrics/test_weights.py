"""Statistics of importance weights: closed forms, brute force, failures, running metrics."""

from math import erfc, exp, log

import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.metrics import (
    LogPartitionFunction,
    VarianceLogWeight,
    effective_sample_size,
    ess_from_target,
    rejection_autocorrelation,
    weight_statistics,
)

NAN, INF = float("nan"), float("inf")


def gaussian(n, sigma, rng, mean=0.0):
    return mean + sigma * torch.randn(n, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.2, 0.8, 1.2])
def test_gaussian_log_weights(sigma, rng):
    found = weight_statistics(gaussian(100000, sigma, rng, mean=300.0))
    s2 = sigma**2
    for value, error, exact in (
        (found.ess, found.ess_error, exp(-s2)),
        (found.log_z, found.log_z_error, 300 + s2 / 2),
        (found.var_log_w, found.var_log_w_error, s2),
        (found.acceptance, found.acceptance_error, erfc(sigma / 2)),
    ):
        assert 0 < error < 0.05
        assert abs(value - exact) < 3.5 * error
    assert (found.n, found.n_failed) == (100000, 0)


def test_errors_are_the_scatter_of_repetitions():
    rng = torch.Generator().manual_seed(3)
    runs = [weight_statistics(gaussian(2000, 0.7, rng)) for _ in range(150)]
    for name in ("ess", "log_z", "var_log_w", "acceptance"):
        scatter = float(torch.tensor([getattr(r, name) for r in runs]).std())
        quoted = float(torch.tensor([getattr(r, f"{name}_error") for r in runs]).square().mean().sqrt())
        assert quoted == pytest.approx(scatter, rel=0.3), name


def test_acceptance_is_the_mean_over_pairs(rng):
    log_w = gaussian(60, 1.0, rng)
    w = log_w.exp()
    smaller = torch.minimum(w.unsqueeze(0), w.unsqueeze(1))
    expected = (smaller.sum() - w.sum()) / (59 * w.sum())
    assert weight_statistics(log_w).acceptance == pytest.approx(float(expected), rel=1e-12)


def test_ess_is_the_plain_one(rng):
    log_w = gaussian(500, 1.0, rng)
    assert weight_statistics(log_w).ess == pytest.approx(float(effective_sample_size(log_w)), rel=1e-12)


def test_failures_have_weight_zero_and_are_counted():
    found = weight_statistics(torch.tensor([0.0, NAN, 0.0, INF, -INF, 0.0, 0.0, 0.0]))
    assert (found.n, found.n_failed) == (8, 2)
    assert found.ess == pytest.approx(5 / 8)
    assert found.log_z == pytest.approx(log(5 / 8))
    assert found.var_log_w == 0
    # of five ones, seven others propose: four are taken
    assert found.acceptance == pytest.approx(4 / 7)


def test_without_any_finite_weight():
    found = weight_statistics(torch.tensor([NAN, INF, -INF]))
    assert (found.ess, found.acceptance, found.log_z, found.n_failed) == (0.0, 0.0, None, 2)
    alone = weight_statistics(torch.tensor([2.0]))
    assert (alone.ess, alone.ess_error, alone.log_z) == (1.0, None, 2.0)


def test_summary_entries():
    entries = weight_statistics(torch.zeros(64)).as_dict()
    assert entries["ess"] == {"value": 1.0, "error": 0.0, "n": 64}
    assert set(entries) == {"ess", "log_z", "var_log_w", "acceptance", "n_failed"}


def test_ess_from_the_target(rng):
    # under p = q w / Z a Gaussian log w has its mean moved by the variance
    sigma = 0.8
    log_w = gaussian(40000, sigma, rng, mean=5.0 + sigma**2)
    value, error, failed = ess_from_target(log_w.reshape(100, 400))
    assert abs(value - exp(-(sigma**2))) < 3.5 * error < 0.05
    assert failed == 0


def test_ess_from_the_target_sees_a_missed_mode():
    seen = torch.zeros(1000, dtype=torch.float64)
    missed = torch.where(torch.arange(1000) % 2 == 0, 0.0, 40.0)
    assert ess_from_target(seen)[0] == pytest.approx(1.0)
    assert ess_from_target(missed)[0] < 1e-15
    assert ess_from_target(torch.tensor([0.0, INF, NAN, 0.0])) == (0.0, None, 1)
    assert ess_from_target(torch.tensor([0.0, NAN, -INF, 0.0]))[::2] == (1.0, 2)


def test_rejections_in_a_row():
    accepted = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1]])
    expected = [1.0, 5 / 12, 2 / 10, 1 / 8, 0.0]
    assert rejection_autocorrelation(accepted, 4).tolist() == pytest.approx(expected)
    p = 0.3
    rng = torch.Generator().manual_seed(4)
    rho = rejection_autocorrelation(torch.rand(200, 1000, generator=rng) < p, 5)
    assert rho.tolist() == pytest.approx([(1 - p) ** t for t in range(6)], abs=0.01)


def test_running_metrics_equal_the_joint_sample(rng):
    log_w = gaussian(600, 2.0, rng, mean=-700.0)
    log_w[7], log_w[300], log_w[301] = NAN, INF, -INF
    found = weight_statistics(log_w)
    log_z, variance = LogPartitionFunction(), VarianceLogWeight()
    for batch in log_w.split(70):
        log_z.update(batch)
        variance.update(batch)
    assert float(log_z.compute()) == pytest.approx(found.log_z, rel=1e-12)
    assert float(variance.compute()) == pytest.approx(found.var_log_w, rel=1e-10)
    variance.update(torch.tensor([NAN, INF]))
    assert float(variance.compute()) == pytest.approx(found.var_log_w, rel=1e-10)


def test_states_of_two_processes_reduce(rng):
    halves = gaussian(500, 1.5, rng).split([120, 380])
    for kind, name in ((LogPartitionFunction, "log_z"), (VarianceLogWeight, "var_log_w")):
        metrics = [kind() for _ in halves]
        for metric, half in zip(metrics, halves, strict=True):
            metric.update(half)
        joint = kind()
        for state, reduce in joint._reductions.items():
            stacked = torch.stack([getattr(m, state) for m in metrics])
            # None leaves the states of the processes side by side
            setattr(joint, state, stacked if reduce is None else reduce(stacked))
        joint._update_count = 1
        expected = getattr(weight_statistics(torch.cat(halves)), name)
        assert float(joint.compute()) == pytest.approx(expected, rel=1e-10)


def test_variance_of_one_weight_is_unknown():
    metric = VarianceLogWeight()
    metric.update(torch.tensor([1.0]))
    assert torch.isnan(metric.compute())


@pytest.mark.parametrize("shape", [(0,), (2, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="log weights"):
        weight_statistics(torch.zeros(shape))


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="n_blocks"):
        weight_statistics(torch.zeros(5), n_blocks=1)
    with pytest.raises(InputError, match="target's fields"):
        ess_from_target(torch.tensor([NAN]))
    with pytest.raises(InputError, match="lag"):
        rejection_autocorrelation(torch.zeros(2, 3), 4)
    with pytest.raises(InputError, match="steps"):
        rejection_autocorrelation(torch.zeros(3), 1)


@pytest.mark.parametrize("lost", [-1e80, -1e200, -1e308])
def test_weights_far_below_all_others(lost, rng):
    log_w = gaussian(512, 1.0, rng)
    log_w[3] = lost
    found = weight_statistics(log_w)
    without = weight_statistics(torch.cat([log_w[:3], log_w[4:]]))
    assert found.ess == pytest.approx(without.ess * 511 / 512) and found.ess_error > 0
    assert found.var_log_w is None or found.var_log_w > 1e150
    assert all(v is None or abs(v) < INF for v in vars(found).values())
