"""Bias-corrected averages of an expensive observable from a cheap approximation of it.

<O> = mean(A) + mean(D), D = O - A on a small set with exact labels (lecture, all-mode averaging
1208.4349; learned approximations 1807.05971). However poor the approximation, the sum has no bias; its
error is that of both terms. Two forms: A averaged over unlabelled configurations only, of variance
Var(A)/N_ul + Var(D)/N_bc, or over all, the corrected ones included, of variance
Var(A)/N_all + Var(D)/N_bc + 2 Cov(A, D)/N_all; each variance times 2 tau_int.

Both need sets that share no Markov time: a configuration that the approximation was trained on has a
smaller D than any other, and the correction then misses what it is for.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from torch import Tensor

from lattice_lightning.analysis.errors import (
    MAX_RATIO,
    MIN_CHAINS,
    Array,
    Estimate,
    _as_array,
    estimate,
    format_error,
)
from lattice_lightning.exceptions import InputError, TooFewLabelsError

__all__ = ["Corrected", "bias_corrected", "optimal_scale"]

FORMS = ("unlabelled", "all")
#: independent labels below which no error of the correction can be formed
MIN_EFFECTIVE_LABELS = 10
#: share of the error^2 of measuring the labels alone, above which the approximation is no help
MAX_SHARE = 1.0


@dataclass(frozen=True)
class Corrected:
    """A bias-corrected average.

    Attributes:
        value: mean(A) + mean(D).
        error: the larger of the two errors, None when nothing can be said.
        error_gamma: Gamma method on each set, added in quadrature (the sets are apart in Markov time).
        error_chains: standard error of the corrected averages of single chains; None below 8 chains.
        uncorrected: mean of A alone, biased.
        correction: mean of D, minus the bias of the approximation.
        labels: mean of the labels alone, what the approximation must beat.
        correlation: of label and approximation on the correction set.
        gain: error^2 of the labels alone over error^2 of the corrected average.
        reliable: whether the error can be trusted.
        reason: why not, in plain words.
        form: ``unlabelled`` or ``all``.
        n_correction: labels of the correction set.
        n_unlabelled: configurations without.
    """

    value: float
    error: float | None
    error_gamma: float | None
    error_chains: float | None
    uncorrected: Estimate
    correction: Estimate
    labels: Estimate
    correlation: float | None
    gain: float | None
    reliable: bool
    reason: str | None
    form: str
    n_correction: int
    n_unlabelled: int

    def as_dict(self) -> dict[str, Any]:
        """Plain entries for summary.json."""
        return asdict(self)

    def __str__(self) -> str:
        """Corrected and uncorrected value."""
        doubt = "" if self.reliable else f" (not reliable: {self.reason})"
        return f"{format_error(self.value, self.error)}, uncorrected {self.uncorrected}{doubt}"


def optimal_scale(labels: Tensor | Array, approximation: Tensor | Array) -> float:
    """Cov(O, A) / Var(A), the multiple of A that leaves the smallest Var(O - c A).

    To be fixed on the training set: taken from the correction set, it biases the correction.

    Raises:
        InputError: for series of other shapes or not finite, or an approximation that never varies.
    """
    o, a = _as_array(labels, "labels"), _as_array(approximation, "approximation")
    if o.shape != a.shape:
        raise InputError(f"labels {o.shape} and approximation {a.shape} must be of the same configurations")
    spread = a - a.mean()
    variance = float((spread**2).mean())
    # rounding alone may make a constant vary
    if variance <= (1e-14 * float(np.abs(a).max())) ** 2:
        raise InputError("the approximation never varies on the training set; it has learned nothing")
    return float((spread * (o - o.mean())).mean()) / variance


def bias_corrected(
    labels: Tensor | Array,
    approximation: Tensor | Array,
    unlabelled: Tensor | Array | None,
    form: str = "all",
    name: str = "observable",
    averaged: Tensor | Array | None = None,
) -> Corrected:
    """The corrected average with its error.

    Args:
        labels: exact values O ``[chains, n]`` of the correction set, equally spaced.
        approximation: A of the same configurations.
        unlabelled: A ``[chains, m]`` of the configurations without labels. With as many chains as the
            labels, the same chains are meant, gaps of several tau_int away (:class:`MarkovSets`).
            None when every configuration has a label, as in all-mode averaging.
        form: A averaged over the ``unlabelled`` only, or over ``all``.
        name: for messages.
        averaged: A as it is averaged on the labelled configurations, where that is another one than
            corrects them: over many sources, while O - A is of one (1208.4349).

    Raises:
        InputError: for an unknown form, shapes that do not fit or values that are not finite.
        TooFewLabelsError: it says how many are needed.

    Warns:
        RuntimeWarning: when the corrected average is no better than the labels alone.

    Example:
        >>> rng = np.random.default_rng(3)
        >>> a = rng.normal(1.0, 1.0, size=(8, 2000))
        >>> o = 0.5 + a + rng.normal(0.0, 0.1, size=a.shape)     # A is too small by 0.5
        >>> result = bias_corrected(o[:, :200], a[:, :200], a[:, 200:])
        >>> abs(result.value - 1.5) < 4 * result.error, abs(result.uncorrected.value - 1.5) > 0.4
        (True, True)
    """
    if form not in FORMS:
        raise InputError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "unlabelled" and (unlabelled is None or averaged is not None):
        raise InputError(
            f"{name}: form 'unlabelled' averages A over unlabelled configurations alone; without them, or "
            "with an average over the labelled ones, take form 'all'"
        )
    o = _as_array(labels, f"{name}: labels")
    a = _as_array(approximation, f"{name}: approximation")
    over = a if averaged is None else _as_array(averaged, f"{name}: averaged approximation")
    u = None if unlabelled is None else _as_array(unlabelled, f"{name}: unlabelled approximation")
    for what, other in (("approximation", a), ("averaged approximation", over)):
        if o.shape != other.shape:
            raise InputError(
                f"{name}: labels {o.shape} and {what} {other.shape} must be of the same configurations"
            )
    d = o - a
    correction = estimate(d, f"{name}: correction")
    exact = estimate(o, f"{name}: labels")
    _require_labels(correction, exact, d.size, name)
    n_unlabelled = 0 if u is None else u.size
    share = 1.0 if form == "unlabelled" else n_unlabelled / (n_unlabelled + a.size)
    # on one set the covariance of A and D comes with their weighted sum
    beside = d + (1 - share) * over
    terms = {"correction set": beside}
    if u is not None:
        terms["unlabelled"] = share * u
    parts = {which: estimate(term, f"{name}: {which}") for which, term in terms.items()}
    value = sum(part.value for part in parts.values())
    # an approximation that says the same everywhere is exact in its mean; one frozen in a set is not
    fixed = a.min() == a.max() == over.min() == over.max() and (u is None or a.min() == u.min() == u.max())
    still = {
        "correction set": d.min() == d.max() and beside.min() == beside.max() and (fixed or u is not None),
        "unlabelled": fixed,
    }
    gammas = [0.0 if still[which] else part.error_gamma for which, part in parts.items()]
    error_gamma = None if None in gammas else sqrt(sum(g**2 for g in gammas if g is not None))
    error_chains = None
    if len({len(term) for term in terms.values()}) == 1 and len(o) >= MIN_CHAINS:
        # chain by chain: sees whatever still correlates the two sets
        means = sum(term.mean(1) for term in terms.values())
        error_chains = float(np.std(means, ddof=1) / sqrt(len(o)))
    elif min(len(term) for term in terms.values()) >= MIN_CHAINS:
        scatter = [term.mean(1) for term in terms.values()]
        error_chains = sqrt(sum(float(s.var(ddof=1)) / len(s) for s in scatter))
    known = [e for e in (error_gamma, error_chains) if e is not None]
    error = max(known) if known else None
    reason = _doubt(parts, terms, error_gamma, error_chains)
    gain = (exact.error / error) ** 2 if error and exact.error else None
    if gain is not None and gain < MAX_SHARE:
        warnings.warn(
            f"{name}: the corrected error {error:.2g} is no smaller than that of its {o.size} labels "
            f"alone, {exact.error:.2g} (Var(O - A) / Var(O) = {d.var() / max(o.var(), 1e-300):.2g}, "
            f"{n_unlabelled} unlabelled): this approximation does not pay",
            RuntimeWarning,
            stacklevel=2,
        )
    if u is None:
        uncorrected = estimate(over, name)
    else:
        joined = form == "all" and a.shape[0] == u.shape[0]
        uncorrected = estimate(np.concatenate([over, u], 1) if joined else u, name)
    return Corrected(
        value, error, error_gamma, error_chains, uncorrected, correction, exact, _correlation(o, a), gain,
        reason is None, reason, form, o.size, n_unlabelled,
    )


def _correlation(o: Array, a: Array) -> float | None:
    if o.min() == o.max() or a.min() == a.max():
        return None
    return float(np.corrcoef(o.ravel(), a.ravel())[0, 1])


def _require_labels(correction: Estimate, labels: Estimate, n: int, name: str) -> None:
    """Refuse a correction whose own error could not be told.

    Raises:
        TooFewLabelsError: saying how many labels are needed.
    """
    # D may be constant (an exact approximation); then the labels tell how slowly anything changes
    tau = correction.tau_int or labels.tau_int or 0.5
    needed = ceil(MIN_EFFECTIVE_LABELS * max(2 * tau, 1.0))
    if n < needed:
        raise TooFewLabelsError(
            f"{name}: {n} labels are too few for an honest correction; with tau_int {tau:.1f} at least "
            f"{needed} are needed, and 5 times as many for an error good to 10 %"
        )


def _doubt(
    parts: Mapping[str, Estimate],
    series: Mapping[str, Array],
    error_gamma: float | None,
    error_chains: float | None,
) -> str | None:
    """Why the error cannot be trusted, or None."""
    if error_gamma is None:
        return "a set is too short for an autocorrelation time, or never varies"
    if error_chains is not None and error_gamma > 0:
        ratio = max(error_gamma, error_chains) / max(min(error_gamma, error_chains), 1e-300)
        if ratio > MAX_RATIO:
            return f"the two errors disagree: {error_gamma:.2g} (Gamma), {error_chains:.2g} (chains)"
    for name, part in parts.items():
        varies = series[name].min() != series[name].max()
        # that the two errors of one term differ matters only where it shows in their sum, above
        judged_before = part.reason is not None and part.reason.startswith("the two errors disagree")
        if varies and part.reason is not None and not judged_before:
            return f"{name}: {part.reason}"
    return None
