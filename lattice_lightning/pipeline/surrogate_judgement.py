"""How good a surrogate is: against labelling everything, what it saves, what was planned and what came."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from math import ceil, sqrt
from typing import Any

import numpy as np

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
from lattice_lightning.analysis.errors import Array
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.targets import Target

__all__ = ["carried_out", "judge", "moments_of", "plans"]

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


def plans(moments: Moments | None, costs: Costs, full: float | None) -> dict[str, Any]:
    """Cost at equal error and error at equal cost, against labelling everything."""
    found: dict[str, Any] = {"plan": None, "cost_ratio": None, "error_ratio": None}
    if moments is not None and full:
        best = plan(moments, costs, full)
        found.update(plan=asdict(best), cost_ratio=best.cost_ratio)
        budget = best.cost_full
        if budget > costs.training + costs.labelled + costs.unlabelled:
            corrected, alone = error_at_cost(moments, costs, budget)
            found["error_ratio"] = corrected / alone
    return found


def carried_out(
    promised: Moments, costs: Costs, function: Function, exact: Sets, guess: Sets
) -> dict[str, Any]:
    """Plan from the training set alone, then do it with the first configurations of this run.

    The target is half as large again as the error that the training set promises for all of them.
    """
    chains = exact["correction"].shape[1]
    target = 1.5 * _promise(promised, exact["correction"][0].size, guess["unlabelled"][0].size)
    wanted = plan(promised, costs, target)
    n_bc, n_ul = ceil(wanted.n_bc / chains), ceil(wanted.n_unlabelled / chains)
    entry = {
        "target": target, "n_bc": n_bc * chains, "n_unlabelled": n_ul * chains, "predicted": None,
        "realised": None, "why_not": None,
    }
    if n_bc > exact["correction"].shape[2] or n_ul > guess["unlabelled"].shape[2]:
        return {**entry, "why_not": "it takes more configurations than this run has"}
    predicted = _promise(promised, n_bc * chains, n_ul * chains)
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


def _promise(moments: Moments, n_bc: int, n_unlabelled: int) -> float:
    spread_a = moments.variance_approximation * 2 * moments.tau_approximation
    spread_d = moments.variance_difference * 2 * moments.tau_difference
    return sqrt(spread_a / n_unlabelled + spread_d / n_bc)


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
