"""Cases of a coverage run: synthetic ensembles of known truth, and what is quoted on one of them.

The label is O = x + 0.3 (x^2 - 1) + 0.3 y with independent unit AR(1) processes x (tau_int of the
case) and y (tau_int 2), so <O> = 0 and O is skewed; features are x + 0.1 z, z normal, and a normal
number that says nothing. A surrogate is fitted to each ensemble's training set.
"""

import warnings
from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

from lattice_lightning.analysis.correction import FORMS, Corrected, bias_corrected
from lattice_lightning.analysis.coverage import pull_of
from lattice_lightning.analysis.errors import MIN_CHAINS, Array
from lattice_lightning.analysis.markov_sets import MarkovSets
from lattice_lightning.exceptions import InputError, TooFewLabelsError
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.pipeline.checks import check_integer, check_name

__all__ = ["COLUMNS", "analysed", "checked_cases", "synthetic_ensemble"]

#: what is kept of every ensemble; nan where there is none
COLUMNS = ("pull", "pull_gamma", "correlation", "gain", "reliable", "warned")
_SIZES = ("n_chains", "n_train", "n_correction", "n_unlabelled", "gap")
_KEYS = {*_SIZES, "tau", "surrogate", "form", "overlap"}
#: effective labels below which the coverage of a case says little
MIN_EFFECTIVE = 50
#: steps of a set that the Gamma method needs
MIN_STEPS = 5


def synthetic_ensemble(
    n_chains: int, n_steps: int, tau: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Labels ``[chains, steps]`` of mean zero and features ``[chains, steps, 2]``."""
    x = _ar1(n_chains, n_steps, tau, rng)
    y = _ar1(n_chains, n_steps, 2.0, rng)
    labels = x + 0.3 * (x**2 - 1) + 0.3 * y
    noise = rng.normal(size=(2, n_chains, n_steps))
    return labels, np.stack([x + 0.1 * noise[0], noise[1]], -1)


def _ar1(n_chains: int, n_steps: int, tau: float, rng: np.random.Generator) -> Array:
    """Unit AR(1) series in equilibrium, of integrated autocorrelation time tau."""
    from scipy.signal import lfilter

    a = (2 * tau - 1) / (2 * tau + 1)
    steps = sqrt(1 - a * a) * rng.normal(size=(n_chains, n_steps))
    series: Array = lfilter([1.0], [1.0, -a], steps, axis=1, zi=a * rng.normal(size=(n_chains, 1)))[0]
    return series


def checked_cases(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Cases by name with what they leave out, all buildable.

    Raises:
        InputError: naming the key of a case that cannot be run.
    """
    cases: dict[str, dict[str, Any]] = {}
    for name, entry in given.items():
        where = f"coverage.cases.{name}"
        check_name("a case of coverage.cases", name)
        if not isinstance(entry, Mapping):
            raise InputError(f"{where} must be a mapping with {', '.join(sorted(_KEYS))}, got {entry!r}")
        case = {"form": "all", "overlap": False, **entry}
        if unknown := set(case) - _KEYS:
            raise InputError(f"{where} has no key {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}")
        if missing := _KEYS - set(case):
            raise InputError(f"{where} needs {', '.join(sorted(missing))}")
        _check(where, case)
        cases[name] = case
    return cases


def _check(where: str, case: Mapping[str, Any]) -> None:
    for key in _SIZES:
        check_integer(f"{where}.{key}", case[key], 1)
    tau = case["tau"]
    if not isinstance(tau, int | float) or isinstance(tau, bool) or not 0.5 <= tau < float("inf"):
        raise InputError(f"{where}.tau must be a number of at least 0.5, got {tau!r}")
    if not isinstance(case["overlap"], bool):
        raise InputError(f"{where}.overlap must be true or false, got {case['overlap']!r}")
    if case["n_chains"] * case["n_train"] < 2:
        raise InputError(f"{where}: n_train x n_chains must be at least 2 labels to fit to")
    for key in ("n_correction", "n_unlabelled"):
        if case["n_chains"] < MIN_CHAINS and case[key] < MIN_STEPS:
            raise InputError(
                f"{where}.{key} must be at least {MIN_STEPS} with fewer than {MIN_CHAINS} chains, got "
                f"{case[key]}: no error can be formed"
            )
    if case["form"] not in FORMS:
        raise InputError(f"{where}.form must be one of {', '.join(FORMS)}, got {case['form']!r}")
    effective = case["n_chains"] * case["n_correction"] / (2 * tau)
    if effective < MIN_EFFECTIVE:
        raise InputError(
            f"{where} has {effective:.0f} effective labels, N_bc / (2 tau); coverage is judged from "
            f"{MIN_EFFECTIVE}: n_correction of at least "
            f"{-(-MIN_EFFECTIVE * 2 * tau // case['n_chains']):.0f}"
        )
    instantiate(case["surrogate"], Regressor)  # type: ignore[type-abstract]


def analysed(case: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float]:
    """``COLUMNS`` of one ensemble of a case, drawn and corrected anew."""
    sets = MarkovSets.in_order(*(case[key] for key in _SIZES[1:]))
    labels, features = synthetic_ensemble(case["n_chains"], sets.n_steps, case["tau"], rng)
    # what an honest split forbids: the surrogate knows the labels that are to correct it
    trained_on = "correction" if case["overlap"] else "train"
    surrogate = instantiate(case["surrogate"], Regressor)  # type: ignore[type-abstract]
    surrogate.fit(sets.take(features, trained_on).reshape(-1, 2), sets.take(labels, trained_on).ravel())

    def approximation(which: str) -> Array:
        part = sets.take(features, which)
        return surrogate.predict(part.reshape(-1, 2)).reshape(part.shape[:2])

    nan = float("nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            result: Corrected = bias_corrected(
                sets.take(labels, "correction"), approximation("correction"), approximation("unlabelled"),
                case["form"],
            )
        except TooFewLabelsError:
            # its tau_int came out far too long by chance: no interval is quoted, none can be wrong
            return dict.fromkeys(COLUMNS, nan)
    return {
        "pull": pull_of(result, 0.0),
        "pull_gamma": pull_of(result, 0.0, gamma_alone=True),
        "correlation": nan if result.correlation is None else result.correlation,
        "gain": nan if result.gain is None else result.gain,
        "reliable": float(result.reliable),
        "warned": float(any("does not pay" in str(w.message) for w in caught)),
    }
