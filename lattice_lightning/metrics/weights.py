"""Importance weights w = exp(-S) / q: effective sample size, log Z, variance and acceptance with errors.

A log weight of nan or +inf is a failure, -inf a field the target forbids. Each has weight zero, as in
the Metropolis step that rejects it; failures are counted, and nothing that is not finite is averaged.
(Chains cannot tell the three apart: there a forbidden proposal counts as a failure too.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, hypot, inf, isfinite, log, sqrt
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lattice_lightning.exceptions import InputError
from lattice_lightning.metrics.functional import independence_acceptance, without_failures

__all__ = [
    "LogPartitionFunction",
    "VarianceLogWeight",
    "WeightStatistics",
    "ess_from_target",
    "rejection_autocorrelation",
    "weight_statistics",
]

N_BLOCKS = 32


@dataclass(frozen=True)
class WeightStatistics:
    """What independent draws of a proposal say about it.

    Attributes:
        ess: effective sample size (mean w)^2 / mean w^2, in [0, 1].
        ess_error: its error; too small where the largest weights were not met.
        log_z: log of the mean weight: log Z of the target in the measure of q.
        log_z_error: its error.
        var_log_w: variance of the finite log weights; None where it overflows.
        var_log_w_error: its error.
        acceptance: of independence Metropolis in equilibrium, estimated from all pairs of draws.
        acceptance_error: its error.
        n: draws, failed ones included.
        n_failed: draws whose log weight is nan or +inf.
    """

    ess: float
    ess_error: float | None
    log_z: float | None
    log_z_error: float | None
    var_log_w: float | None
    var_log_w_error: float | None
    acceptance: float
    acceptance_error: float | None
    n: int
    n_failed: int

    def as_dict(self) -> dict[str, Any]:
        """``{ess: {value, error, n}, log_z: {value, error}, ...}`` for the summary."""
        return {
            "ess": {"value": self.ess, "error": self.ess_error, "n": self.n},
            "log_z": {"value": self.log_z, "error": self.log_z_error},
            "var_log_w": {"value": self.var_log_w, "error": self.var_log_w_error},
            "acceptance": {"value": self.acceptance, "error": self.acceptance_error},
            "n_failed": self.n_failed,
        }


def weight_statistics(log_weights: Tensor, n_blocks: int = N_BLOCKS) -> WeightStatistics:
    """Figures of merit of log weights ``[n]`` of independent draws; errors by the jackknife.

    Args:
        log_weights: log w = -S - log q with normalised q.
        n_blocks: blocks of the jackknife, at most n.

    Raises:
        InputError: for anything but a non-empty vector, or less than two blocks.

    Example:
        >>> rng = torch.Generator().manual_seed(1)
        >>> log_w = torch.randn(20000, generator=rng, dtype=torch.float64)
        >>> found = weight_statistics(log_w)
        >>> abs(found.ess - exp(-1)) < 4 * found.ess_error, abs(found.log_z - 0.5) < 4 * found.log_z_error
        (True, True)
    """
    if log_weights.ndim != 1 or log_weights.numel() == 0 or n_blocks < 2:
        raise InputError(
            f"expected log weights [n] with n >= 1 and n_blocks >= 2, got shape {list(log_weights.shape)} "
            f"and {n_blocks}"
        )
    log_w, failed = _without_failures(log_weights)
    n = log_w.numel()
    shift = float(log_w.max())
    if not isfinite(shift):
        return WeightStatistics(0.0, None, None, None, None, None, 0.0, None, n, failed)
    # of the largest weight, so that nothing overflows
    w = torch.exp(log_w - shift)
    block = torch.empty(n, dtype=torch.int64)
    for k, indices in enumerate(torch.arange(n).tensor_split(min(n_blocks, n))):
        block[indices] = k

    def value_and_error(f: Callable[[Tensor], float | None]) -> tuple[float | None, float | None]:
        everything = torch.ones(n, dtype=torch.bool, device=w.device)
        return f(everything), _jackknife(block.to(w.device), f)

    ess, ess_error = value_and_error(lambda keep: _ess(w[keep]))
    log_z, log_z_error = value_and_error(lambda keep: _log(float(w[keep].mean()), shift))
    variance = value_and_error(lambda keep: _variance(log_w[keep]))
    acceptance, acceptance_error = value_and_error(lambda keep: float(independence_acceptance(log_w[keep])))
    assert ess is not None and acceptance is not None
    return WeightStatistics(
        ess, ess_error, log_z, log_z_error, *variance, acceptance, acceptance_error, n, failed
    )


def _without_failures(log_weights: Tensor) -> tuple[Tensor, int]:
    """Log weights in double precision with -inf for failures, and how many failed."""
    log_w = log_weights.detach().double()
    failed = torch.isnan(log_w) | (log_w == torch.inf)
    return without_failures(log_w), int(failed.sum())


def _jackknife(block: Tensor, f: Callable[[Tensor], float | None]) -> float | None:
    n = int(block.max()) + 1
    values = [f(block != k) for k in range(n)] if n > 1 else []
    known = [v for v in values if v is not None]
    if not known or len(known) < n:
        return None
    mean = sum(known) / n
    # hypot does not overflow where squares would
    error = sqrt((n - 1) / n) * hypot(*(v - mean for v in known))
    return error if isfinite(error) else None


def _log(mean: float, shift: float) -> float | None:
    return log(mean) + shift if mean > 0 else None


def _ess(w: Tensor) -> float:
    square = float(w.square().mean())
    return float(w.mean()) ** 2 / square if square > 0 else 0.0


def _variance(log_w: Tensor) -> float | None:
    finite = log_w[torch.isfinite(log_w)]
    variance = float(finite.var()) if finite.numel() > 1 else inf
    return variance if isfinite(variance) else None


def ess_from_target(log_weights: Tensor, n_blocks: int = N_BLOCKS) -> tuple[float, float | None, int]:
    """1 / (E_p[w] E_p[1/w]) from fields of the *target*: it sees modes that the proposal misses.

    Args:
        log_weights: log w of the target's fields, ``[n]`` or ``[chains, steps]`` of Markov chains.
        n_blocks: blocks of the jackknife; chains in their order, so that a block holds neighbours.

    Returns:
        The value in [0, 1] (0 where a field has q = 0, log w = +inf), its error, and the number of
        fields whose weight is nan or zero, which are left out.

    Raises:
        InputError: for no weights, or none that is not nan.
    """
    log_w = log_weights.detach().double().flatten()
    failed = torch.isnan(log_w) | (log_w == -torch.inf)
    log_w = log_w[~failed]
    if log_w.numel() == 0 or n_blocks < 2:
        raise InputError(
            f"expected log weights of the target's fields and n_blocks >= 2, got {log_weights.numel()}, "
            f"{int(failed.sum())} of them nan, and {n_blocks}"
        )
    if bool((log_w == torch.inf).any()):
        return 0.0, None, int(failed.sum())
    n = log_w.numel()
    chunks = torch.arange(n).tensor_split(min(n_blocks, n))
    block = torch.cat([torch.full_like(c, k) for k, c in enumerate(chunks)]).to(log_w.device)

    def ess(keep: Tensor) -> float:
        kept = log_w[keep]
        both = torch.logsumexp(kept, 0) + torch.logsumexp(-kept, 0)
        return exp(2 * log(kept.numel()) - float(both))

    return ess(torch.ones_like(block, dtype=torch.bool)), _jackknife(block, ess), int(failed.sum())


def rejection_autocorrelation(accepted: Tensor, max_lag: int) -> Tensor:
    """rho(tau), tau = 0 ... max_lag: probability of tau rejections in a row (1904.12072).

    Observable-independent, for independence Metropolis; no identity for any one observable.

    Args:
        accepted: 0/1 series ``[chains, steps]``.
        max_lag: largest tau, at most the number of steps.

    Raises:
        InputError: for another shape or lag.

    Example:
        >>> rejection_autocorrelation(torch.tensor([[1, 0, 0, 1]]), 2)
        tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    if accepted.ndim != 2 or not 0 <= max_lag <= accepted.shape[1]:
        raise InputError(
            f"expected accepted [chains, steps] and a lag from 0 to steps, got shape "
            f"{list(accepted.shape)} and {max_lag}"
        )
    total = torch.nn.functional.pad(accepted.detach().double().cumsum(1), (1, 0))
    rho = [
        (total[:, lag:] == total[:, : total.shape[1] - lag]).double().mean()
        for lag in range(max_lag + 1)
    ]
    return torch.stack(rho)


def _log_sum(stacked: Tensor) -> Tensor:
    return torch.logsumexp(stacked, 0)


class LogPartitionFunction(Metric):
    """log of the mean weight of all draws seen, log Z of the target; failures have weight zero.

    Example:
        >>> metric = LogPartitionFunction()
        >>> metric.update(torch.tensor([0.0, 0.0, float("nan"), 0.0]))
        >>> metric.compute()
        tensor(-0.2877, dtype=torch.float64)
    """

    full_state_update = False
    log_sum: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        least = torch.tensor(float("-inf"), dtype=torch.float64)
        self.add_state("log_sum", least, dist_reduce_fx=_log_sum)
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_weights: Tensor) -> None:
        """Add log weights of any shape."""
        log_w, _ = _without_failures(log_weights.flatten())
        self.log_sum = torch.logaddexp(self.log_sum, torch.logsumexp(log_w, 0).to(self.log_sum))
        self.count = self.count + log_w.numel()

    def compute(self) -> Tensor:
        """Log Z."""
        return self.log_sum - self.count.log()


class VarianceLogWeight(Metric):
    """Variance of the finite log weights of all draws seen, by count, mean and squared deviations."""

    full_state_update = False
    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "mean", "squares"):
            # one entry a process after a sync, merged in compute
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx=None)

    def update(self, log_weights: Tensor) -> None:
        """Add log weights of any shape."""
        log_w = log_weights.detach().flatten().to(self.mean)
        log_w = log_w[torch.isfinite(log_w)]
        if log_w.numel() == 0:
            return
        mean = log_w.mean()
        batch = (torch.full_like(mean, log_w.numel()), mean, (log_w - mean).square().sum())
        stacked = (torch.stack(pair) for pair in zip(self._moments(), batch, strict=True))
        self.count, self.mean, self.squares = _merged(*stacked)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.count, self.mean, self.squares

    def compute(self) -> Tensor:
        """Unbiased variance; nan for less than two finite log weights."""
        count, _, squares = _merged(*(state.flatten() for state in self._moments()))
        return torch.where(count > 1, squares / (count - 1), torch.nan)


def _merged(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of joined samples from those of each."""
    total = count.sum()
    joint = (count * mean).sum() / total.clamp(min=1)
    return total, joint, (squares + count * (mean - joint).square()).sum()
