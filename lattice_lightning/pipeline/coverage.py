"""Runs of ``coverage``: do the intervals of the bias-corrected estimator hold the truth as they say?

Synthetic ensembles of known truth and autocorrelation, many of each case. The label is
O = x + 0.3 (x^2 - 1) + 0.3 y with independent unit AR(1) processes x (tau_int of the case) and y
(tau_int 2), so <O> = 0 and O is skewed; features are x + 0.1 z, z normal, and a normal number that
says nothing. A surrogate is fitted to each ensemble's training set.
"""

import json
import os
import warnings
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from lattice_lightning import __version__
from lattice_lightning.analysis.correction import FORMS, Corrected, MarkovSets, bias_corrected
from lattice_lightning.analysis.coverage import (
    HEADER,
    coverage_figure,
    coverage_of,
    coverage_table,
    pull_of,
    write_coverage_report,
)
from lattice_lightning.analysis.errors import MIN_CHAINS
from lattice_lightning.exceptions import InputError, ResumeError, TooFewLabelsError
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.pipeline.checks import check_integer, check_name
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, write_json, write_results
from lattice_lightning.pipeline.train import run_folder
from lattice_lightning.seeds import derive_seed

__all__ = ["coverage", "synthetic_ensemble"]

Array = npt.NDArray[np.float64]
_SIZES = ("n_chains", "n_train", "n_correction", "n_unlabelled", "gap")
_KEYS = {*_SIZES, "tau", "surrogate", "form", "overlap"}
_KEPT = ("pull", "correlation", "gain", "reliable", "warned")
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


def coverage(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Run every case, judge its coverage, write summary and report; resumable.

    Raises:
        InputError: for a case that cannot be run, before anything is.
    """
    cases = _check(config)
    check_target(config)
    require_one_process(config["trainer"], "a coverage run")
    n = int(config["coverage"]["n_ensembles"])
    if config["dry_run"]:
        table = Table("case", "labels", "effective", "unlabelled", "surrogate")
        for name, case in cases.items():
            labels = case["n_chains"] * case["n_correction"]
            table.add_row(
                name, str(labels), f"{labels / (2 * case['tau']):.0f}",
                str(case["n_chains"] * case["n_unlabelled"]),
                case["surrogate"]["_target_"].rpartition(".")[2],
            )
        console.print(table)
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    found = {
        name: _case(config, name, case, n, folder.path / f"case_{name}.npz") for name, case in cases.items()
    }
    summary = _summary(config, cases, found)
    pulls = {name: columns["pull"][~np.isnan(columns["pull"])] for name, columns in found.items()}
    write_json(folder.summary, summary)
    write_coverage_report(folder.report, summary, pulls)
    table = Table(*HEADER)
    for line in coverage_table(summary["coverage"]):
        table.add_row(*line)
    console.print(table)
    if config["publish"]:
        _publish(Path(config["publish"]), folder, summary, pulls)
        console.print(f"published in {config['publish']}")
    console.print(f"report: {folder.report}")
    return summary


def _check(config: Mapping[str, Any]) -> dict[str, Any]:
    """Cases with what they leave out, all buildable."""
    given = config["coverage"]
    if not isinstance(given, Mapping) or set(given) != {"n_ensembles", "cases"} or not given["cases"]:
        raise InputError(f"coverage must be like {{n_ensembles: 2000, cases: {{...}}}}, got {given!r}")
    check_integer("coverage.n_ensembles", given["n_ensembles"], 2)
    check_integer("seed", config["seed"], 0)
    cases: dict[str, Any] = {}
    for name, entry in given["cases"].items():
        where = f"coverage.cases.{name}"
        check_name("a case of coverage.cases", name)
        if not isinstance(entry, Mapping):
            raise InputError(f"{where} must be a mapping with {', '.join(sorted(_KEYS))}, got {entry!r}")
        case = {"form": "all", "overlap": False, **entry}
        if unknown := set(case) - _KEYS:
            raise InputError(f"{where} has no key {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}")
        if missing := _KEYS - set(case):
            raise InputError(f"{where} needs {', '.join(sorted(missing))}")
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
        effective = case["n_chains"] * case["n_correction"] / (2 * case["tau"])
        if effective < MIN_EFFECTIVE:
            raise InputError(
                f"{where} has {effective:.0f} effective labels, N_bc / (2 tau); coverage is judged from "
                f"{MIN_EFFECTIVE}: n_correction of at least "
                f"{-(-MIN_EFFECTIVE * 2 * case['tau'] // case['n_chains']):.0f}"
            )
        instantiate(case["surrogate"], Regressor)  # type: ignore[type-abstract]
        cases[name] = case
    return cases


def _case(
    config: Mapping[str, Any], name: str, case: Mapping[str, Any], n: int, path: Path
) -> dict[str, Array]:
    """Pull and diagnostics of every ensemble of a case; ensembles done before are kept."""
    columns: dict[str, list[float]] = {key: [] for key in _KEPT}
    seconds = 0.0
    if path.exists():
        try:
            with path.open("rb") as saved, np.load(saved, allow_pickle=False) as stored:
                columns = {key: stored[key].tolist() for key in _KEPT}
                seconds = float(stored["seconds"])
        except Exception as error:
            raise ResumeError(
                f"cannot read {path} ({type(error).__name__}); delete it to start anew"
            ) from error
    done = len(columns["pull"])
    tic = perf_counter()
    for k in tqdm(range(done, n), desc=name, initial=done, total=n, leave=False, disable=None):
        rng = np.random.default_rng(derive_seed(int(config["seed"]), "coverage", name, k))
        for key, value in _one(case, rng).items():
            columns[key].append(value)
        if (k + 1) % 100 == 0 or k + 1 == n:
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                arrays: dict[str, Any] = {"seconds": seconds + perf_counter() - tic, **columns}
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    seconds += perf_counter() - tic
    return {**{key: np.array(v) for key, v in columns.items()}, "seconds": np.array(seconds)}


def _one(case: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float]:
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
            return dict.fromkeys(_KEPT, nan)
    return {
        "pull": pull_of(result, 0.0),
        "correlation": nan if result.correlation is None else result.correlation,
        "gain": nan if result.gain is None else result.gain,
        "reliable": float(result.reliable),
        "warned": float(any("does not pay" in str(w.message) for w in caught)),
    }


def _summary(
    config: Mapping[str, Any], cases: Mapping[str, Any], found: Mapping[str, Mapping[str, Array]]
) -> dict[str, Any]:
    judged = {}
    for name, columns in found.items():
        judged[name] = {
            **_coverage_of(name, columns["pull"]),
            "refused": int(np.isnan(columns["pull"]).sum()),
            **{key: _mean(columns[key]) for key in ("correlation", "gain", "reliable", "warned")},
            "must_fail": bool(cases[name]["overlap"]),
            "seconds": float(columns["seconds"]),
        }
    return {
        "experiment": config["name"], "version": __version__, "seed": config["seed"], "device": "cpu",
        "threads": 1, "config": json.loads(json.dumps(config)),
        "seconds": sum(case["seconds"] for case in judged.values()),
        "coverage": judged,
        "ok": all(case["covers"] != case["must_fail"] for case in judged.values()),
    }


def _coverage_of(name: str, pulls: Array) -> dict[str, Any]:
    quoted = pulls[~np.isnan(pulls)]
    if not quoted.size:
        raise InputError(f"no ensemble of coverage.cases.{name} has an error to judge; lengthen its sets")
    return coverage_of(quoted)


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _publish(
    target: Path, folder: RunFolder, summary: Mapping[str, Any], pulls: Mapping[str, Array]
) -> None:
    common = {key: summary[key] for key in ("experiment", "version", "seed", "device", "threads")}
    cases = summary["config"]["coverage"]["cases"]
    rows = [
        {
            "row": name, "parameters": cases[name], "command": command_of(summary["config"]),
            "summary": {**common, "coverage": case},
        }
        for name, case in summary["coverage"].items()
    ]
    lines = ["| " + " | ".join(HEADER) + " |", "| --- " * len(HEADER) + "|"]
    lines += ["| " + " | ".join(line) + " |" for line in coverage_table(summary["coverage"])]
    write_results(target, folder, rows, "\n".join(lines))
    coverage_figure(pulls).savefig(target / "figure.png", dpi=140)
