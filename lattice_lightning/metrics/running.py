"""torchmetrics shells of bounded memory, summed over batches and processes."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from lattice_lightning.metrics.functional import (
    acceptance_probability,
    boltzmann_factor,
    without_failures,
)

__all__ = ["AcceptanceProbability", "EffectiveSampleSize", "ExpMinusDeltaH"]


class AcceptanceProbability(MeanMetric):
    """Mean Metropolis probability of all trajectories seen.

    Example:
        >>> metric = AcceptanceProbability()
        >>> metric.update(torch.tensor([-1.0, float("nan")]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def update(self, delta_H: Tensor) -> None:  # type: ignore[override]
        """Add energy changes of any shape."""
        super().update(acceptance_probability(delta_H))


class ExpMinusDeltaH(MeanMetric):
    """<exp(-delta_H)> of all trajectories seen; one in equilibrium."""

    def update(self, delta_H: Tensor) -> None:  # type: ignore[override]
        """Add energy changes of any shape."""
        super().update(boltzmann_factor(delta_H))


def _log_sum(stacked: Tensor) -> Tensor:
    return torch.logsumexp(stacked, 0)


class EffectiveSampleSize(Metric):
    """ESS of all importance weights seen, from two running log-sums and a count.

    Example:
        >>> metric = EffectiveSampleSize()
        >>> metric.update(torch.zeros(10)), metric.update(torch.zeros(20))
        (None, None)
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    log_sum: Tensor
    log_sum_squares: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        least = torch.tensor(float("-inf"), dtype=torch.float64)
        self.add_state("log_sum", least.clone(), dist_reduce_fx=_log_sum)
        self.add_state("log_sum_squares", least.clone(), dist_reduce_fx=_log_sum)
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_weights: Tensor) -> None:
        """Add log weights of any shape."""
        flat = without_failures(log_weights.detach().flatten().to(self.log_sum))
        self.log_sum = torch.logaddexp(self.log_sum, torch.logsumexp(flat, 0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, torch.logsumexp(2 * flat, 0))
        self.count = self.count + flat.numel()

    def compute(self) -> Tensor:
        """ESS in [0, 1]; zero where every draw failed."""
        if self.count > 0 and not torch.isfinite(self.log_sum):
            return torch.zeros_like(self.log_sum)
        return torch.exp(2 * self.log_sum - self.log_sum_squares - self.count.log())
