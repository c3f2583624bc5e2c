r"""How many configurations a bias-corrected estimate needs, and what it costs.

With an approximation A of an observable O, cheap on every configuration, and D = O - A known on
labelled ones only,

    <O> = mean(A over N_ul unlabelled) + mean(D over N_bc labelled)

is unbiased whatever A is. The two sets are disjoint and their averages taken as independent, so
error^2 = S_A^2 / N_ul + S_D^2 / N_bc with S^2 = variance * 2 tau_int. Minimising the cost
sum_i N_i c_i at a fixed error with a Lagrange multiplier (Neyman allocation) gives

    N_i = S_i / sqrt(c_i) * sum_j S_j sqrt(c_j) / error^2

at the cost (sum_j S_j sqrt(c_j))^2 / error^2.

Sources: bias-corrected learned observables, 1807.05971; the allocation, W. G. Cochran, Sampling
Techniques (1977), chapter 5, and multilevel Monte Carlo, M. B. Giles, Oper. Res. 56 (2008) 607.
"""

from dataclasses import dataclass, fields
from math import ceil, isfinite, sqrt

from lattice_lightning.analysis.moments import Moments
from lattice_lightning.exceptions import InputError

__all__ = ["Costs", "Plan", "error_at_cost", "plan"]


@dataclass(frozen=True)
class Costs:
    """Costs in any one unit, solver iterations or seconds say.

    Attributes:
        label: one exact measurement of O.
        approximation: one evaluation of A with its features.
        configuration: generating one configuration; 0 where they exist already.
        training: the whole training, its labels included.
        shared: what a label has of the approximation already (solves for both).

    Raises:
        InputError: for a cost that is negative or not finite, a label that is free, unlabelled
            configurations that are (approximation + configuration = 0), of which one would take
            infinitely many, or more shared than either has.
    """

    label: float
    approximation: float
    configuration: float = 0.0
    training: float = 0.0
    shared: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isfinite(value) and value >= 0):
                raise InputError(f"cost of {field.name} is {value}; expected a number >= 0")
        if self.label == 0:
            raise InputError("cost of label is 0: measure everything")
        if self.unlabelled == 0:
            raise InputError("approximation and configuration cannot both be free")
        if self.shared > min(self.label, self.approximation):
            raise InputError(
                f"cost shared is {self.shared}, more than label {self.label} or approximation "
                f"{self.approximation}"
            )

    @property
    def unlabelled(self) -> float:
        """One term of mean(A)."""
        return self.approximation + self.configuration

    @property
    def labelled(self) -> float:
        """One term of mean(D)."""
        return self.label + self.approximation - self.shared + self.configuration

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
    spread_o, spread_a, spread_d = moments.spreads
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
    spread_o, spread_a, spread_d = moments.spreads
    total = spread_a * sqrt(costs.unlabelled) + spread_d * sqrt(costs.labelled)
    n_bc = spare * spread_d / (sqrt(costs.labelled) * total) if total else 1.0
    n_bc = min(max(n_bc, 1.0), (spare - costs.unlabelled) / costs.labelled)
    n_unlabelled = (spare - n_bc * costs.labelled) / costs.unlabelled
    corrected = sqrt(spread_a**2 / n_unlabelled + spread_d**2 / n_bc)
    return corrected, spread_o * sqrt(costs.full / budget)
