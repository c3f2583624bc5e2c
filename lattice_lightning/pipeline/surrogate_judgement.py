"""How good a surrogate is: against labelling everything, what it saves, what was planned and what came."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from lattice_lightning.analysis import (
    Corrected,
    Costs,
    Moments,
    corrected_function,
    error_at_cost,
    estimate_function,
    linearised,
    plan,
)
from lattice_lightning.analysis.derived import Function
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.targets import Target

__all__ = ["judge", "moments_of", "plans"]

Array = npt.NDArray[np.float64]
#: ``[k, chains, n]`` of the correction and of the unlabelled set
Sets = Mapping[str, Array]


def judge(
    target: Target, function: Function, exact: Sets, guess: Sets, result: Corrected
) -> dict[str, Any]:
    """The entry that DESIGN calls ``correction``, with pulls against labelling everything."""
    everything = np.concatenate([exact["correction"], exact["unlabelled"]], 2)
    approximate = np.concatenate([guess["correction"], guess["unlabelled"]], 2)
    full = estimate_function(function, everything, target.label)
    means = np.array([s.mean() for s in everything])
    line = {
        key: linearised(function, s, means)
        for key, s in (("o", exact["correction"]), ("a", guess["correction"]), ("u", guess["unlabelled"]))
    }
    share = line["u"].size / approximate[0].size if result.form == "all" else 1.0
    by_chain = share * line["u"].mean(1) + (line["o"] - share * line["a"]).mean(1)
    truth = linearised(function, everything, means).mean(1)
    off = result.uncorrected.value - full.value
    bias = linearised(function, approximate, means).mean(1) - truth
    return {
        "corrected": {"value": result.value, "error": result.error, "reliable": result.reliable,
                      "reason": result.reason},
        "uncorrected": asdict(result.uncorrected), "full": asdict(full),
        "labels": asdict(result.labels), "r": result.correlation, "gain": result.gain,
        "bias": off, "bias_pull": _pull(bias), "corrected_pull": _pull(by_chain - truth),
        "n_bc": result.n_correction, "n_unlabelled": result.n_unlabelled,
    }


def plans(
    function: Function, exact: Sets, guess: Sets, moments: Moments | None, promised: Moments | None,
    costs: Costs, full: float | None, error: float | None,
) -> dict[str, Any]:
    """Cost at equal error, error at equal cost, and what was predicted beside what came."""
    found: dict[str, Any] = {"plan": None, "cost_ratio": None, "error_ratio": None, "planned": None}
    if moments is not None and full:
        best = plan(moments, costs, full)
        found.update(plan=asdict(best), cost_ratio=best.cost_ratio)
        budget = best.cost_full
        if budget > costs.training + costs.labelled + costs.unlabelled:
            corrected, alone = error_at_cost(moments, costs, budget)
            found["error_ratio"] = corrected / alone
    if promised is not None and error:
        found["planned"] = _carried_out(promised, costs, 1.5 * error, function, exact, guess)
    return found


def _carried_out(
    promised: Moments, costs: Costs, target: float, function: Function, exact: Sets, guess: Sets
) -> dict[str, Any] | None:
    """Plan for a target error from the training set alone, then do it with the first configurations."""
    chains = exact["correction"].shape[1]
    wanted = plan(promised, costs, target)
    n_bc, n_ul = ceil(wanted.n_bc / chains), ceil(wanted.n_unlabelled / chains)
    entry = {
        "target": target, "n_bc": n_bc * chains, "n_unlabelled": n_ul * chains, "predicted": None,
        "realised": None, "why_not": None,
    }
    if n_bc > exact["correction"].shape[2] or n_ul > guess["unlabelled"].shape[2]:
        return {**entry, "why_not": "it takes more configurations than this run has"}
    spread_a = promised.variance_approximation * 2 * promised.tau_approximation
    spread_d = promised.variance_difference * 2 * promised.tau_difference
    predicted = sqrt(spread_a / (n_ul * chains) + spread_d / (n_bc * chains))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            done = corrected_function(
                function, exact["correction"][..., :n_bc], guess["correction"][..., :n_bc],
                guess["unlabelled"][..., :n_ul], "unlabelled",
            )
        except InputError as error:
            return {**entry, "predicted": predicted, "why_not": str(error)}
    return {**entry, "predicted": predicted, "realised": done.error}


def moments_of(o: Array, a: Array) -> Moments | None:
    """Moments, or None where the series are too short for them."""
    try:
        return Moments.from_series(o, a)
    except InputError:
        return None


def _pull(differences: Array) -> float | None:
    """Mean over its error from the chains, whose parts are of the same configurations."""
    if len(differences) < 8 or differences.std() == 0:
        return None
    return float(differences.mean() / (differences.std(ddof=1) / np.sqrt(len(differences))))
