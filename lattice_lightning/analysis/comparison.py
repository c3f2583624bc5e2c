"""Comparing samplers: differences in units of their errors, and many judged together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lattice_lightning.analysis.errors import Estimate

__all__ = ["Judgement", "compare", "judge_pulls"]

MAX_PULL = 3.5
MIN_P_VALUE = 0.01
#: sums or copies of other observables, which would count twice in a chi^2
DEPENDENT = ("polyakov_loop", "polyakov_loop_symmetrised", "topological_susceptibility")


@dataclass(frozen=True)
class Judgement:
    """Many pulls judged together: ok when all are below 3.5 and the chi^2 p-value is above 0.01."""

    max_abs: float
    chi2: float
    dof: int
    p_value: float
    ok: bool


def judge_pulls(pulls: Iterable[float]) -> Judgement:
    """Judge independent pulls (difference over error) together.

    Example:
        >>> judge_pulls([0.3, -1.2, 0.8]).ok, judge_pulls([0.3, 6.0]).ok
        (True, False)
    """
    values = np.asarray(list(pulls), dtype=float)
    chi2 = float((values**2).sum())
    p_value = float(stats.chi2.sf(chi2, len(values))) if len(values) else 1.0
    largest = float(np.abs(values).max()) if len(values) else 0.0
    ok = bool(largest < MAX_PULL and p_value > MIN_P_VALUE)
    return Judgement(largest, chi2, len(values), p_value, ok)


def compare(
    observables: Mapping[str, Estimate], reference: Mapping[str, Estimate]
) -> dict[str, Any]:
    """Differences of the observables that both have, as summary.json keeps them.

    Observables that are functions of others, or whose error is unknown, are listed and left out of
    the chi^2, which takes the rest as uncorrelated: the plaquette and the Polyakov loops of one run
    are not quite, so its p-value is a guide.
    """
    result: dict[str, Any] = {}
    pulls = []
    for name, mine in observables.items():
        theirs = reference.get(name)
        if theirs is None:
            continue
        difference = mine.value - theirs.value
        if mine.error is None or theirs.error is None or mine.error + theirs.error == 0:
            result[name] = {"difference": difference, "error": None, "sigma": None}
            continue
        error = float(np.hypot(mine.error, theirs.error))
        result[name] = {"difference": difference, "error": error, "sigma": difference / error}
        if name not in DEPENDENT:
            pulls.append(difference / error)
    judged = judge_pulls(pulls)
    result.update(chi2=judged.chi2, dof=judged.dof, p_value=judged.p_value)
    return result
