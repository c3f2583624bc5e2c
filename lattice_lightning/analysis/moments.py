"""Variances and autocorrelation times of an observable, its approximation and their difference."""

from dataclasses import dataclass, fields
from math import isfinite, sqrt
from typing import Self

import numpy as np
from torch import Tensor

from lattice_lightning.analysis.errors import Array, estimate
from lattice_lightning.exceptions import InputError

__all__ = ["Moments"]


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

    @property
    def spreads(self) -> tuple[float, float, float]:
        """S = sqrt(variance 2 tau) of O, A and D."""
        return (
            sqrt(self.variance_full * 2 * self.tau_full),
            sqrt(self.variance_approximation * 2 * self.tau_approximation),
            sqrt(self.variance_difference * 2 * self.tau_difference),
        )
