import math

import numpy as np
import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.metrics import (
    AcceptanceProbability,
    EffectiveSampleSize,
    ExpMinusDeltaH,
    acceptance_probability,
    effective_sample_size,
)


def test_acceptance_of_gaussian_energy_changes(rng):
    """erfc(sqrt(<dH>)/2) for dH normal with mean Var/2."""
    variance = 0.51
    delta = variance / 2 + math.sqrt(variance) * torch.randn(200_000, generator=rng).double()
    probability = acceptance_probability(delta)
    error = float(probability.std() / probability.numel() ** 0.5)
    assert abs(float(probability.mean()) - math.erfc(math.sqrt(variance / 2) / 2)) < 3.5 * error


def test_failed_trajectories_count_as_rejected():
    delta = torch.tensor([0.0, float("nan"), float("inf"), float("-inf")])
    assert acceptance_probability(delta).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_ess_of_gaussian_weights(rng):
    """ESS = exp(-s^2) for Gaussian log weights of variance s^2."""
    s2 = 0.3
    log_w = 7.0 + math.sqrt(s2) * torch.randn(400_000, generator=rng).double()
    assert abs(float(effective_sample_size(log_w)) - math.exp(-s2)) < 0.005


def test_ess_does_not_overflow():
    log_w = torch.tensor([1e4, 1e4, -1e4], dtype=torch.float64)
    assert float(effective_sample_size(log_w)) == pytest.approx(2 / 3)


def test_running_metrics_equal_the_joint_sample(rng):
    delta = torch.randn(5, 40, generator=rng).double()
    plain = delta.numpy()
    expected = {
        AcceptanceProbability: np.minimum(1, np.exp(-plain)).mean(),
        ExpMinusDeltaH: np.exp(-plain).mean(),
        EffectiveSampleSize: np.exp(plain).mean() ** 2 / np.exp(2 * plain).mean(),
    }
    for kind, value in expected.items():
        metric = kind()
        for batch in delta:
            metric.update(batch)
        assert float(metric.compute()) == pytest.approx(value, rel=1e-6), kind.__name__


def test_ess_states_of_two_processes_reduce(rng):
    halves = torch.randn(2, 100, generator=rng).double()
    metrics = [EffectiveSampleSize() for _ in halves]
    for metric, half in zip(metrics, halves, strict=True):
        metric.update(half)
    joint = EffectiveSampleSize()
    for name, reduce in joint._reductions.items():
        stacked = torch.stack([getattr(m, name) for m in metrics])
        setattr(joint, name, reduce(stacked) if name != "count" else stacked.sum())
    joint._update_count = 1
    torch.testing.assert_close(joint.compute(), effective_sample_size(halves.flatten()))


def test_ess_of_failures_alone_is_zero():
    metric = EffectiveSampleSize()
    metric.update(torch.tensor([torch.nan, torch.inf]))
    assert float(metric.compute()) == 0


@pytest.mark.parametrize("shape", [(0,), (2, 3)])
def test_ess_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="log weights"):
        effective_sample_size(torch.zeros(shape))
