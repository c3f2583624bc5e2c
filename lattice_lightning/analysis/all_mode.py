r"""All-mode averaging over sources, and how much it gains, from exact and sloppy solves of every source.

With O_g and A_g exact and sloppy on the source g of N_G, the estimate of a configuration is

    O_g - A_g + (1/N_G) sum_g' A_g'

with g drawn at random (1208.4349). Series are ``[sources, chains, steps]`` throughout.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lattice_lightning.analysis.classical import classical_gain
from lattice_lightning.analysis.comparison import MAX_PULL, MIN_P_VALUE
from lattice_lightning.analysis.correction import bias_corrected
from lattice_lightning.analysis.errors import Array, estimate
from lattice_lightning.exceptions import InputError

__all__ = ["AllMode", "correlations", "gains", "jackknife", "judge_zero_means", "setting"]


class AllMode:
    """The series of the estimate over the first n sources, ``[chains, steps]`` each.

    Args:
        exact: O of every source, ``[sources, chains, steps]``.
        sloppy: A of the same sources.
        pick: uniform numbers in [0, 1), ``[chains, steps]``, drawn without knowledge of the field: the
            source of index floor(n pick) is corrected.
        n: sources that are averaged over.

    Attributes:
        labels: O_g of the source picked.
        approximation: A_g of the same source.
        averaged: mean of A over the n sources.
        everything: mean of O over them, what would be measured without A.

    Raises:
        InputError: for series that do not fit, or n out of range.
    """

    def __init__(self, exact: Array, sloppy: Array, pick: Array, n: int) -> None:
        if exact.ndim != 3 or exact.shape != sloppy.shape or exact.shape[1:] != pick.shape:
            raise InputError(
                "expected exact and sloppy series [sources, chains, steps] and picks [chains, steps], got "
                f"{exact.shape}, {sloppy.shape}, {pick.shape}"
            )
        if not 1 <= n <= len(exact):
            raise InputError(f"expected 1 to {len(exact)} sources, got {n}")
        g = np.floor(pick * n).astype(int)[None]
        self.labels: Array = np.take_along_axis(exact[:n], g, 0)[0]
        self.approximation: Array = np.take_along_axis(sloppy[:n], g, 0)[0]
        self.averaged: Array = sloppy[:n].mean(0)
        self.everything: Array = exact[:n].mean(0)

    @property
    def estimates(self) -> Array:
        """O_g - A_g + mean(A) of every configuration."""
        return self.labels - self.approximation + self.averaged


def _source_correlation(values: Array) -> float:
    """R: covariance of two different sources, mean over pairs, over the mean variance."""
    n = len(values)
    spread = values - values.mean()
    variance = float((spread**2).mean())
    if n < 2 or variance == 0:
        return float("nan")
    return float(((spread.sum(0) ** 2).mean() / n - variance) / ((n - 1) * variance))


def correlations(exact: Array, sloppy: Array, n: int) -> dict[str, float]:
    """r and R of sources that are alike by symmetry, one mean for all of them.

    Returns:
        ``correlation`` r of O and A on the same source, over all sources; ``source_correlation`` R of A
        between the first n, ``source_correlation_exact`` that of O (nan for one source);
        ``variance_ratio`` var A / var O.

    Raises:
        InputError: where O or A never varies.
    """
    o, a = exact - exact.mean(), sloppy - sloppy.mean()
    variances = float((o**2).mean()), float((a**2).mean())
    if 0 in variances:
        raise InputError("a constant has no correlation with anything")
    return {
        "correlation": min(float((o * a).mean()) / float(np.sqrt(variances[0] * variances[1])), 1.0),
        "source_correlation": _source_correlation(sloppy[:n]),
        "source_correlation_exact": _source_correlation(exact[:n]),
        "variance_ratio": variances[1] / variances[0],
    }


def gains(exact: Array, sloppy: Array, pick: Array, n: int) -> dict[str, float]:
    """error^2 and variance of the estimate over those of one exact source, by the formula and measured.

    The formula takes all autocorrelation times as equal, so it is compared with variances. Errors feel
    more of R: sources differ by what is independent from step to step and share what is slow, so that
    the average over them has the longer autocorrelation time.

    Returns:
        ``formula`` of :func:`classical_gain` with r and R of A; ``variance`` of the estimates, as
        realised with the sources picked, and ``covariances``, its mean over which source is corrected;
        ``measured``, error^2 by the Gamma method; ``measured_exact``, the same of O averaged over n
        sources, ``measured_over_exact``, their ratio; ``formula_misses`` (variance minus formula) and
        ``formula_misses_error`` (measured minus formula); what :func:`correlations` returns.
    """
    found = correlations(exact, sloppy, n)
    source = found["source_correlation"]
    found["formula"] = classical_gain(found["correlation"], 0.0 if n == 1 else source, n)
    o, a = exact[:n] - exact[:n].mean(), sloppy[:n] - sloppy[:n].mean()
    found["covariances"] = float(((o - a + a.mean(0)) ** 2).mean() / (o**2).mean())
    series = AllMode(exact, sloppy, pick, n)
    one = _square_of_error(series.labels)
    # with one source the estimate is O, whatever A is
    several = n > 1
    found["variance"] = float(series.estimates.var() / series.labels.var()) if several else 1.0
    found["measured"] = _square_of_error(series.estimates) / one if several else 1.0
    found["measured_exact"] = _square_of_error(series.everything) / one if several else 1.0
    found["measured_over_exact"] = found["measured"] / found["measured_exact"]
    found["formula_misses"] = found["variance"] - found["formula"]
    found["formula_misses_error"] = found["measured"] - found["formula"]
    return found


def _square_of_error(series: Array) -> float:
    """By the Gamma method: that of some ten chain means is itself uncertain by a quarter."""
    error = estimate(series).error_gamma
    if not error:
        raise InputError(f"no error can be formed of a series of shape {series.shape}")
    return error**2


def jackknife(
    function: Callable[..., Mapping[str, float]], *series: Array
) -> dict[str, dict[str, float]]:
    """Numbers of a function of series with jackknife errors, a chain left out at a time.

    Args:
        function: of the series, to numbers by name.
        series: ``[..., chains, steps]`` each.

    Example:
        >>> data = np.random.default_rng(1).normal(size=(16, 100))
        >>> found = jackknife(lambda x: {"mean": float(x.mean())}, data)["mean"]
        >>> bool(np.isclose(found["error"], data.mean(1).std(ddof=1) / 4))
        True
    """
    n_chains = series[0].shape[-2]
    whole = function(*series)
    without = [function(*(np.delete(s, c, -2) for s in series)) for c in range(n_chains)]
    result = {}
    for name, value in whole.items():
        scatter = np.array([found[name] for found in without])
        error = float(np.sqrt((n_chains - 1) * scatter.var()))
        result[name] = {"value": float(value), "error": error}
    return result


def judge_zero_means(series: Array) -> dict[str, Any]:
    """Whether the means of correlated series ``[k, chains, steps]`` are all zero.

    The covariance of the means comes from the configurations, each variance times its 2 tau_int, so that
    pulls of the same sources at several tolerances are not counted as independent.

    Returns:
        chi2, dof (the rank), p_value, the largest pull, and ok: it is below 3.5 and p above 0.01.
    """
    from scipy import stats

    found = [estimate(s) for s in series]
    errors = np.array([e.error_gamma or 0.0 for e in found])
    kept = errors > 0
    if not kept.any():
        return {"chi2": 0.0, "dof": 0, "p_value": 1.0, "largest": 0.0, "ok": True}
    pulls = np.array([e.value for e in found])[kept] / errors[kept]
    correlation = np.atleast_2d(np.corrcoef(series[kept].reshape(int(kept.sum()), -1)))
    values, vectors = np.linalg.eigh(correlation)
    # series that follow from others add nothing but rounding
    real = values > 1e-6 * values.max()
    chi2 = float((((vectors.T @ pulls)[real] ** 2) / values[real]).sum())
    p_value, largest = float(stats.chi2.sf(chi2, real.sum())), float(np.abs(pulls).max())
    return {
        "chi2": chi2, "dof": int(real.sum()), "p_value": p_value, "largest": largest,
        "ok": bool(largest < MAX_PULL and p_value > MIN_P_VALUE),
    }


def setting(
    exact: Array,
    sloppy: Array,
    pick: Array,
    n: int,
    costs: tuple[float, float],
    name: str = "observable",
    measured_exactly: bool = False,
) -> dict[str, Any]:
    """One line of a table: gains, values and what they cost, n sources averaged over.

    Args:
        exact: O, ``[sources, chains, steps]``.
        sloppy: A, of the same shape.
        pick: see :class:`AllMode`.
        n: sources.
        costs: of one exact and one sloppy solve, in one unit.
        name: for messages.
        measured_exactly: A is O, and nothing is solved twice.

    Returns:
        numbers of :func:`gains` with jackknife errors; ``corrected``, ``uncorrected`` and
        ``everything``; ``bias_pull``, the bias of mean(A) in its own errors; ``difference``, corrected
        minus everything; ``cost`` a configuration; ``merit_one`` and ``merit_all``, cost x error^2 over
        that of one exact source and of n.
    """
    found: dict[str, Any] = {
        key: _finite(value)
        for key, value in jackknife(lambda o, a, u: gains(o, a, u, n), exact, sloppy, pick).items()
    }
    series = AllMode(exact, sloppy, pick, n)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        result = bias_corrected(
            series.labels, series.approximation, None, name=name, averaged=series.averaged
        )
    everything = estimate(series.everything, name)
    # n > 1: with one source nothing is corrected that is not measured, up to rounding
    difference = estimate(series.estimates - series.everything, name) if n > 1 else None
    bias = result.uncorrected.value - everything.value
    of_one, of_all = costs[0], n * costs[0]
    cost = of_all if measured_exactly else costs[0] + n * costs[1]
    return found | {
        "n_sources": n,
        "corrected": {
            "value": result.value, "error": result.error, "reliable": result.reliable,
            "reason": result.reason,
        },
        "uncorrected": {"value": result.uncorrected.value, "error": result.uncorrected.error},
        "everything": {"value": everything.value, "error": everything.error},
        "bias_pull": bias / result.uncorrected.error if result.uncorrected.error else None,
        "difference": None if difference is None or not difference.error else {
            "value": difference.value, "error": difference.error,
            "pull": difference.value / difference.error,
        },
        "cost": cost,
        "merit_one": _scaled(found["measured"], cost / of_one),
        "merit_all": _scaled(found["measured_over_exact"], cost / of_all),
        "warnings": [str(w.message) for w in caught],
    }


def _finite(entry: Mapping[str, float]) -> dict[str, float] | None:
    return dict(entry) if np.isfinite(entry["value"]) else None


def _scaled(entry: Mapping[str, float], factor: float) -> dict[str, float]:
    return {key: value * factor for key, value in entry.items()}
