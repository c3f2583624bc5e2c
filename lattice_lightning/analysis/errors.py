"""Errors of Markov chain averages, honest on few long and on many short chains.

The Gamma method (hep-lat/0306017, through pyerrors, one replica a chain) estimates the
autocorrelation inside chains and is right for long ones; on many short chains it is 2-4 times too
small. The standard error of the chain means needs no window and is right for many independent
chains. Both are computed, the larger is quoted, and a result is called reliable only where they
agree and the chains are long and mixed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor, isfinite, log10, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lattice_lightning.exceptions import InputError

__all__ = [
    "Estimate",
    "acceptance",
    "autocorrelation_function",
    "estimate",
    "exp_minus_dH",
    "format_entry",
    "format_error",
    "split_rhat",
]

Array = npt.NDArray[np.float64]

MIN_CHAINS = 8
MAX_RATIO = 1.5
MAX_RHAT = 1.05
MIN_LENGTH = 20
MIN_LENGTH_FEW_CHAINS = 50


def format_error(value: float | None, error: float | None, digits: int = 1) -> str:
    """A number with its error in brackets, in units of the last digits shown.

    Example:
        >>> format_error(0.70253, 0.00031), format_error(12.3, 1.4), format_error(0.5, None)
        ('0.7025(3)', '12.3(1.4)', '0.5')
    """
    if value is None or not isfinite(value):
        return "-"
    if error is None or not isfinite(error) or error < 0:
        return f"{value:.4g}"
    if error == 0:
        return f"{value:.6g}"
    places = max(digits - 1 - floor(log10(error)), 0)
    shown = round(error, places)
    if shown >= 1 or places == 0:
        places = max(places, 1) if error < 10 else 0
        return f"{value:.{places}f}({error:.{places}f})"
    return f"{value:.{places}f}({round(error * 10**places)})"


def format_entry(entry: Mapping[str, Any] | None) -> str:
    """``{value, error}`` of a summary as text; empty where there is none."""
    return format_error(entry["value"], entry["error"]) if entry else ""


@dataclass(frozen=True)
class Estimate:
    """A mean over chains and steps with its error.

    Attributes:
        value: mean over all chains and steps.
        error: the larger of the two errors; None when nothing can be said.
        error_gamma: Gamma method, None when it cannot be formed.
        error_chains: standard error of the chain means, None below 8 chains.
        tau_int: integrated autocorrelation time in steps (1/2 for independent ones).
        rhat: split R-hat over chains.
        n_effective: N / (2 tau_int), None when frozen.
        reliable: whether the error can be trusted.
        reason: why not, in plain words.
        n_chains: number of chains.
        n_steps: measurements a chain.
        exact: known exact value, if any.
    """

    value: float
    error: float | None
    error_gamma: float | None
    error_chains: float | None
    tau_int: float | None
    rhat: float | None
    n_effective: float | None
    reliable: bool
    reason: str | None
    n_chains: int
    n_steps: int
    exact: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain entries for summary.json."""
        return asdict(self)

    def __str__(self) -> str:
        """The value with its error, and why not to trust it."""
        tau = "" if self.tau_int is None else f", tau_int {self.tau_int:.1f}"
        doubt = "" if self.reliable else f" (not reliable: {self.reason})"
        return f"{format_error(self.value, self.error)}{tau}{doubt}"


def _as_array(series: Tensor | Array, name: str) -> Array:
    data = series.detach().cpu().numpy() if isinstance(series, Tensor) else np.asarray(series)
    data = np.asarray(data, dtype=np.float64)
    if data.ndim != 2 or 0 in data.shape:
        raise InputError(f"{name}: expected a series [chains, steps], got shape {data.shape}")
    bad = np.argwhere(~np.isfinite(data))
    if len(bad):
        chain, step = (int(i) for i in bad[0])
        raise InputError(
            f"{name}: {data[chain, step]} at chain {chain}, step {step} ({len(bad)} in all); "
            "a measurement failed there"
        )
    return data


def _gamma(data: Array) -> tuple[float, float, float] | None:
    """Error, tau_int and its error by the Gamma method; None for chains too short for it."""
    import pyerrors

    if data.shape[1] < 5:  # pyerrors wants five
        return None
    names = [f"ensemble|r{chain:03d}" for chain in range(data.shape[0])]
    observable = pyerrors.Obs([row.copy() for row in data], names)
    observable.gamma_method()
    tau, spread = observable.e_tauint["ensemble"], observable.e_dtauint["ensemble"]
    return float(observable.dvalue), float(tau), float(spread)


def split_rhat(series: Tensor | Array) -> float | None:
    """Split R-hat (1903.08008) of ``[chains, steps]``; None below four steps or for a constant."""
    data = _as_array(series, "series")
    half = data.shape[1] // 2
    if half < 2:
        return None
    halves = np.concatenate([data[:, :half], data[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean()
    if within == 0:
        return None
    between = half * halves.mean(axis=1).var(ddof=1)
    return float(sqrt((half - 1) / half + between / (within * half)))


def estimate(
    series: Tensor | Array,
    name: str = "observable",
    exact: float | None = None,
    *,
    proportion: bool = False,
) -> Estimate:
    """Mean and error of ``[chains, steps]``.

    Args:
        series: measurements, equally spaced.
        name: for messages.
        exact: known value, kept beside the result.
        proportion: a 0/1 series of independent trials: one that never varied has the error of the
            rule of three. Any other constant series, a charge frozen at zero say, has none.

    Raises:
        InputError: for another shape or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> result = estimate(rng.normal(size=(16, 400)))
        >>> bool(abs(result.value) < 4 * result.error), result.reliable
        (True, True)
    """
    data = _as_array(series, name)
    n_chains, n_steps = data.shape
    total = data.size
    value = float(data.mean())
    if data.min() == data.max():
        proportion = proportion and value in (0.0, 1.0)
        reason = None if proportion else "the series never varied"
        return Estimate(
            value, 3 / total if proportion else None, None, None, None, None,
            float(total) if proportion else None, proportion, reason, n_chains, n_steps, exact,
        )
    error_chains = None
    if n_chains >= MIN_CHAINS:
        error_chains = float(data.mean(axis=1).std(ddof=1) / sqrt(n_chains))
    gamma = _gamma(data)
    error_gamma, tau_int, spread = gamma if gamma is not None else (None, None, 0.0)
    # without chain means nothing else would notice a tau_int that came out too small
    longest = None if tau_int is None else tau_int + spread
    # between-chain spread beyond the window shows as a larger tau
    if tau_int is not None and error_gamma and error_chains and error_chains > error_gamma:
        tau_int *= (error_chains / error_gamma) ** 2
    known = [e for e in (error_gamma, error_chains) if e is not None]
    error = max(known) if known else None
    rhat = split_rhat(data)
    tau_doubt = longest if error_chains is None else tau_int
    reason = _doubt(n_chains, n_steps, error_gamma, error_chains, tau_doubt, rhat)
    n_effective = total / (2 * tau_int) if tau_int else None
    return Estimate(
        value, error, error_gamma, error_chains, tau_int, rhat, n_effective, reason is None,
        reason, n_chains, n_steps, exact,
    )


def _doubt(
    n_chains: int,
    n_steps: int,
    error_gamma: float | None,
    error_chains: float | None,
    tau_int: float | None,
    rhat: float | None,
) -> str | None:
    """Why an error cannot be trusted, or None."""
    if error_gamma is None or tau_int is None:
        return f"{n_steps} steps are too few for an autocorrelation time"
    if error_chains is None:
        if n_steps < MIN_LENGTH_FEW_CHAINS * tau_int:
            return f"{n_chains} chains shorter than {MIN_LENGTH_FEW_CHAINS} tau_int ({tau_int:.1f})"
    else:
        # a small ratio the other way only says that chain means scatter by chance less
        if max(error_gamma, error_chains) > MAX_RATIO * min(error_gamma, error_chains):
            return f"the two errors disagree: {error_gamma:.2g} (Gamma), {error_chains:.2g} (chains)"
        if n_steps < MIN_LENGTH * tau_int:
            return f"chains of {n_steps} steps are shorter than {MIN_LENGTH} tau_int ({tau_int:.1f})"
    if rhat is not None and rhat > MAX_RHAT:
        return f"R-hat is {rhat:.3f}: the chains have not mixed"
    return None


def acceptance(accepted: Tensor | Array) -> Estimate:
    """Acceptance rate of a 0/1 series ``[chains, steps]``."""
    return estimate(accepted, "accepted", proportion=True)


def exp_minus_dH(delta_H: Tensor | Array) -> Estimate:
    """<exp(-delta_H)>, one in equilibrium; a delta_H that is not finite has weight zero."""
    data = delta_H.detach().cpu().numpy() if isinstance(delta_H, Tensor) else np.asarray(delta_H)
    # beyond e^300 the mean says nothing, but its square still has to be a number
    exponent = np.minimum(-np.where(np.isfinite(data), data, 0.0), 300.0)
    weight = np.where(np.isfinite(data), np.exp(exponent), 0.0)
    return estimate(weight, "exp(-dH)")


def autocorrelation_function(series: Tensor | Array, max_lag: int) -> Array:
    """rho(t), t = 0 .. max_lag, averaged over chains, the mean over all chains subtracted."""
    data = _as_array(series, "series")
    data = data - data.mean()
    lags = range(min(max_lag, data.shape[1] - 1) + 1)
    gamma = np.array([(data[:, : data.shape[1] - t] * data[:, t:]).mean() for t in lags])
    return gamma / gamma[0] if gamma[0] > 0 else np.full(len(gamma), np.nan)
