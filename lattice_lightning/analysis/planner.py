r"""How many configurations a bias-corrected estimate needs, and what it costs.

With an approximation A of an observable O, cheap on every configuration, and D = O - A known on
labelled ones only,

    <O> = mean(A over N_ul unlabelled) + mean(D over N_bc labelled)

is unbiased whatever A is. The two sets are disjoint and their averages taken as independent, so
error^2 = S_A^2 / N_ul + S_D^2 / N_bc with S^2 = variance * 2 tau_int. Minimising the cost
sum_i N_i c_i at a fixed error with a Lagrange multiplier (Neyman allocation) gives

    N_i = S_i / sqrt(c_i) * sum_j S_j sqrt(c_j) / error^2

at the cost (sum_j S_j sqrt(c_j))^2 / error^2.

Sources: bias-corrected learned observables, 1807.05971; all-mode averaging, 1208.4349; the
allocation, W. G. Cochran, Sampling Techniques (1977), chapter 5, and multilevel Monte Carlo,
M. B. Giles, Oper. Res. 56 (2008) 607.
"""

from dataclasses import dataclass, fields
from math import ceil, isfinite, sqrt
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lattice_lightning.analysis.errors import estimate
from lattice_lightning.exceptions import InputError

__all__ = ["Costs", "Moments", "Plan", "classical_gain", "error_at_cost", "plan"]

Array = npt.NDArray[np.float64]


def _numpy(series: Tensor | Array) -> Array:
    data = series.detach().cpu().numpy() if isinstance(series, Tensor) else series
    return np.asarray(data, dtype=np.float64)


def _variance_and_tau(data: Array, name: str, *, may_be_constant: bool = False) -> tuple[float, float]:
    tau = estimate(data, name).tau_int
    if data.min() == data.max() and may_be_constant:
        return 0.0, 0.5
    if tau is None:
        raise InputError(f"{name}: no autocorrelation time from a series of shape {data.shape}")
    return float(data.var(ddof=1)), tau


@dataclass(frozen=True)
class Moments:
    """Variances and integrated autocorrelation times of O, A and D = O - A.

    Attributes:
        variance_full: variance of O over configurations.
        variance_approximation: of A.
        variance_difference: of D.
        tau_full: tau_int of O in configurations; 1/2 where they are independent.
        tau_approximation: of A, over the unlabelled configurations.
        tau_difference: of D, over the labelled configurations.

    Raises:
        InputError: for a variance that is negative or not finite, or a tau that is not positive
            and finite (below 1/2 is anticorrelated, and allowed).

    Example:
        >>> Moments(1.0, 1.0, 0.02).correlation
        0.99
    """

    variance_full: float
    variance_approximation: float
    variance_difference: float
    tau_full: float = 0.5
    tau_approximation: float = 0.5
    tau_difference: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = value > 0 if field.name.startswith("tau") else value >= 0
            if not (isfinite(value) and positive):
                raise InputError(f"{field.name} is {value}: variances are >= 0, tau is > 0")

    @classmethod
    def from_series(cls, full: Tensor | Array, approximation: Tensor | Array) -> Self:
        """Moments of O and A measured on the same configurations, ``[chains, steps]``.

        A D that was also trained on these configurations has too small a variance: use others.

        Raises:
            InputError: for other shapes, values that are not finite, or a series of O, A or a
                varying D without an autocorrelation time.

        Example:
            >>> rng = np.random.default_rng(1)
            >>> full = rng.normal(size=(16, 400))
            >>> moments = Moments.from_series(full, full + 0.1 * rng.normal(size=full.shape))
            >>> round(moments.variance_difference, 3), round(moments.correlation, 3)
            (0.01, 0.995)
        """
        o, a = _numpy(full), _numpy(approximation)
        if o.shape != a.shape:
            raise InputError(f"series of O and A have different shapes: {o.shape}, {a.shape}")
        variance_o, tau_o = _variance_and_tau(o, "observable")
        variance_a, tau_a = _variance_and_tau(a, "approximation")
        variance_d, tau_d = _variance_and_tau(o - a, "difference", may_be_constant=True)
        return cls(variance_o, variance_a, variance_d, tau_o, tau_a, tau_d)

    @property
    def correlation(self) -> float:
        """Correlation r of O and A on one configuration.

        Raises:
            InputError: where O or A does not vary.
        """
        scale = sqrt(self.variance_full) * sqrt(self.variance_approximation)
        if scale == 0:
            raise InputError("a constant has no correlation with anything")
        total = self.variance_full + self.variance_approximation
        return (total - self.variance_difference) / (2 * scale)

    def _spreads(self) -> tuple[float, float, float]:
        """S = sqrt(variance 2 tau) of O, A and D."""
        return (
            sqrt(self.variance_full * 2 * self.tau_full),
            sqrt(self.variance_approximation * 2 * self.tau_approximation),
            sqrt(self.variance_difference * 2 * self.tau_difference),
        )


@dataclass(frozen=True)
class Costs:
    """Costs in any one unit, solver iterations or seconds say.

    Attributes:
        label: one exact measurement of O.
        approximation: one evaluation of A with its features.
        configuration: generating one configuration; 0 where they exist already.
        training: the whole training, its labels included.

    Raises:
        InputError: for a cost that is negative or not finite, a label that is free, or unlabelled
            configurations that are (approximation + configuration = 0), of which one would take
            infinitely many.
    """

    label: float
    approximation: float
    configuration: float = 0.0
    training: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isfinite(value) and value >= 0):
                raise InputError(f"cost of {field.name} is {value}; expected a number >= 0")
        if self.label == 0:
            raise InputError("cost of label is 0: measure everything")
        if self.unlabelled == 0:
            raise InputError("approximation and configuration cannot both be free")

    @property
    def unlabelled(self) -> float:
        """One term of mean(A)."""
        return self.approximation + self.configuration

    @property
    def labelled(self) -> float:
        """One term of mean(D)."""
        return self.label + self.approximation + self.configuration

    @property
    def full(self) -> float:
        """One term of mean(O), measuring everything."""
        return self.label + self.configuration


@dataclass(frozen=True)
class Plan:
    """The cheapest bias-corrected estimate of a given error, beside measuring everything.

    Attributes:
        n_bc: labelled configurations, for the bias correction.
        n_unlabelled: configurations with A alone.
        n_full: configurations when O is measured on all.
        cost: of the estimate, training included.
        cost_full: of measuring everything.
        cost_ratio: cost / cost_full.
        predicted_error: of the estimate, at most the target.
        gain: cost_full / cost; below 1 the approximation does not pay.
    """

    n_bc: int
    n_unlabelled: int
    n_full: int
    cost: float
    cost_full: float
    cost_ratio: float
    predicted_error: float
    gain: float


def _count(number: float) -> int:
    if not isfinite(number):
        raise InputError("the target error takes more configurations than can be counted")
    return max(ceil(number), 1)


def plan(moments: Moments, costs: Costs, target_error: float) -> Plan:
    """Numbers of configurations that reach an error at the lowest cost.

    Numbers are rounded up, to at least one each: a bias correction cannot be left out. They hold
    for runs much longer than tau.

    Args:
        moments: variances and autocorrelation times.
        costs: costs in one unit.
        target_error: the error wanted, in units of O.

    Raises:
        InputError: for a target that is not positive and finite.

    Example:
        >>> best = plan(Moments(1.0, 1.0, 0.02), Costs(label=100, approximation=1), 0.03)
        >>> best.n_bc, best.n_unlabelled, best.n_full
        (38, 2691, 1112)
        >>> round(best.predicted_error, 4), round(best.gain, 1)
        (0.03, 17.0)
    """
    if not (isfinite(target_error) and target_error > 0):
        raise InputError(f"target_error is {target_error}; expected a number > 0")
    spread_o, spread_a, spread_d = moments._spreads()
    # in units of the target, whose square may underflow
    o, a, d = spread_o / target_error, spread_a / target_error, spread_d / target_error
    total = a * sqrt(costs.unlabelled) + d * sqrt(costs.labelled)
    n_bc = _count(d / sqrt(costs.labelled) * total)
    n_unlabelled = _count(a / sqrt(costs.unlabelled) * total)
    n_full = _count(o * o)
    cost = costs.training + n_bc * costs.labelled + n_unlabelled * costs.unlabelled
    cost_full = n_full * costs.full
    return Plan(
        n_bc=n_bc,
        n_unlabelled=n_unlabelled,
        n_full=n_full,
        cost=cost,
        cost_full=cost_full,
        cost_ratio=cost / cost_full,
        predicted_error=sqrt(spread_a**2 / n_unlabelled + spread_d**2 / n_bc),
        gain=cost_full / cost,
    )


def error_at_cost(moments: Moments, costs: Costs, budget: float) -> tuple[float, float]:
    """Smallest bias-corrected error of a budget, and the error of measuring everything with it.

    The training comes out of the first budget alone. Numbers of configurations are not rounded,
    but at least one of each is paid for.

    Args:
        moments: variances and autocorrelation times.
        costs: costs in one unit.
        budget: everything that may be spent, in the same unit.

    Raises:
        InputError: for a budget that does not pay the training and one configuration of each kind.

    Example:
        >>> moments, costs = Moments(1.0, 1.0, 0.02), Costs(label=100, approximation=1)
        >>> corrected, full = error_at_cost(moments, costs, 10_000)
        >>> round(corrected, 4), round(full, 4)
        (0.0242, 0.1)
    """
    spare = budget - costs.training
    if not (isfinite(budget) and spare >= costs.labelled + costs.unlabelled and budget >= costs.full):
        raise InputError(
            f"a budget of {budget} does not pay the training ({costs.training}) and one labelled and "
            f"one unlabelled configuration ({costs.labelled + costs.unlabelled})"
        )
    spread_o, spread_a, spread_d = moments._spreads()
    total = spread_a * sqrt(costs.unlabelled) + spread_d * sqrt(costs.labelled)
    n_bc = spare * spread_d / (sqrt(costs.labelled) * total) if total else 1.0
    n_bc = min(max(n_bc, 1.0), (spare - costs.unlabelled) / costs.labelled)
    n_unlabelled = (spare - n_bc * costs.labelled) / costs.unlabelled
    corrected = sqrt(spread_a**2 / n_unlabelled + spread_d**2 / n_bc)
    return corrected, spread_o * sqrt(costs.full / budget)


def classical_gain(correlation: float, source_correlation: float, n_sources: int) -> float:
    r"""error^2 / error_O^2 of all-mode averaging: O_1 - A_1 + mean_g A_g over N_G sources.

    With O measured on one source of each configuration and A on all, N configurations give

        error^2 / error_O^2 = 1/N_G + (1 - 1/N_G) (R + 2 (1 - r)).

    The method is that of 1208.4349. Written as 1/N_G + R' + 2 (1 - r) (1 - 1/N_G), R' is the sum of
    correlations over g != g' divided by N_G^2, that is (1 - 1/N_G) R with the mean R over pairs
    taken here: with one source the result is 1. It is exact where

    * var A = var O, so that var D = 2 (1 - r) var O; otherwise 2 (1 - r) stands for var D / var O,
      which differs at second order in 1 - r when A is O with independent noise;
    * O_1 - A_1 is uncorrelated with A_g of the other sources, that is cov(O_1, A_g) =
      cov(A_1, A_g): otherwise 2 (1 - 1/N_G) cov(O_1 - A_1, A_g) / var O is added.

    A smoothed A = r O + noise breaks the second: with R of O, the result is then
    (1 - 1/N_G) (1 - r)^2 R too large. Autocorrelation times are taken as equal. Values are not
    clipped: R < -1/(N_G - 1), which no N_G sources have, can give a negative one.

    Args:
        correlation: r of O with A, same source and configuration.
        source_correlation: R, mean correlation of two sources of one configuration.
        n_sources: N_G.

    Raises:
        InputError: unless N_G >= 1, abs(r) <= 1 and abs(R) <= 1.

    Example:
        >>> round(classical_gain(0.99, 0.0, 16), 5), classical_gain(0.9, 0.3, 1)
        (0.08125, 1.0)
    """
    if not (isfinite(n_sources) and n_sources >= 1):
        raise InputError(f"n_sources is {n_sources}; expected at least 1")
    for name, value in (("correlation", correlation), ("source_correlation", source_correlation)):
        if not abs(value) <= 1:
            raise InputError(f"{name} is {value}; expected -1 to 1")
    others = 1 - 1 / n_sources
    return 1 / n_sources + others * (source_correlation + 2 * (1 - correlation))
