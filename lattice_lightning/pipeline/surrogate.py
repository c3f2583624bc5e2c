"""Runs of ``surrogate``: an expensive observable from cheap ones, its bias corrected, on HMC ensembles.

Every configuration is labelled, so that the corrected average can be compared with measuring
everything; the surrogates see the labels of their training set, the correction those of its own.
A surrogate of a neighbouring coupling is trained there and used here.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from lattice_lightning import __version__
from lattice_lightning.analysis import Costs, MarkovSets, Moments, bias_corrected, estimate, plan
from lattice_lightning.analysis.correction import FORMS
from lattice_lightning.analysis.surrogates import (
    HEADER,
    surrogate_figure,
    surrogate_table,
    write_surrogate_report,
)
from lattice_lightning.callbacks import SamplingPlan, SamplingResult, sample_exactly
from lattice_lightning.exceptions import InputError
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.pipeline.build import System, instantiate
from lattice_lightning.pipeline.checks import check_integer, check_numbers
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import save_histories
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, write_json, write_results
from lattice_lightning.pipeline.rows import merged
from lattice_lightning.pipeline.train import run_folder
from lattice_lightning.seeds import derive_seed

__all__ = ["surrogate"]

Array = npt.NDArray[np.float64]
_SETS = ("n_train", "n_correction", "n_unlabelled", "gap")
_KEYS = {"label", "form", "sets", "neighbour", "regressors"}
HERE, NEIGHBOUR = "here", "neighbour"


def surrogate(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Sample, label, fit, correct, compare; resumable.

    Raises:
        InputError: for anything in the config that cannot work, before the first trajectory.
    """
    check_numbers(config)
    check_target(config)
    require_one_process(config["trainer"], "a surrogate run")
    device = choose_device(config["trainer"])
    options, sets = _check(config)
    places = {HERE: System(config, device)}
    if options["neighbour"]:
        places[NEIGHBOUR] = System(merged(config, options["neighbour"]), device)
    for system in places.values():
        _check_names(options, system, int(config["seed"]))
    if config["dry_run"]:
        console.print(
            f"{len(places)} ensembles of {config['stream']['n_chains']} chains x {sets.n_steps} steps; "
            f"train {sets.train}, correction {sets.correction}, unlabelled {sets.unlabelled}"
        )
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    results = {name: _sample(config, name, system, sets, folder) for name, system in places.items()}
    series = {name: _arrays(result) for name, result in results.items()}
    costs = _seconds(places[HERE], results[HERE], options["label"])
    rows: dict[str, Any] = {}
    pictures: dict[str, tuple[Array, Array]] = {}
    for name, given in options["regressors"].items():
        for trained_on in places:
            key = name if trained_on == HERE else f"{name}, trained at the neighbour"
            rows[key], pictures[key] = _row(given, options, sets, series, trained_on, costs)
    summary = {
        "experiment": config["name"], "version": __version__, "seed": config["seed"], "device": str(device),
        "threads": torch.get_num_threads(), "config": json.loads(json.dumps(config)),
        "label": options["label"], "costs": costs, "surrogates": rows,
        "acceptance": {
            name: asdict(estimate(s["accepted"], "accepted", proportion=True)) for name, s in series.items()
        },
    }
    write_json(folder.summary, summary)
    save_histories(folder.path / "histories.npz", series)
    write_surrogate_report(folder.report, summary, pictures)
    table = Table(*HEADER)
    for line in surrogate_table(summary):
        table.add_row(*line)
    console.print(table)
    if config["publish"]:
        _publish(Path(config["publish"]), folder, summary, pictures)
        console.print(f"published in {config['publish']}")
    console.print(f"report: {folder.report}")
    return summary


def _check(config: Mapping[str, Any]) -> tuple[dict[str, Any], MarkovSets]:
    given = config["surrogate"]
    if not isinstance(given, Mapping):
        raise InputError(f"surrogate must be a mapping with {', '.join(sorted(_KEYS))}, got {given!r}")
    options = {"form": "all", "neighbour": None, **given}
    if unknown := set(options) - _KEYS:
        raise InputError(f"surrogate has no key {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}")
    if missing := _KEYS - set(options):
        raise InputError(f"surrogate needs {', '.join(sorted(missing))}")
    if options["form"] not in FORMS:
        raise InputError(f"surrogate.form must be one of {', '.join(FORMS)}, got {options['form']!r}")
    if set(options["sets"]) != set(_SETS):
        raise InputError(f"surrogate.sets needs {', '.join(_SETS)}, got {', '.join(options['sets'])}")
    for key in _SETS:
        check_integer(f"surrogate.sets.{key}", options["sets"][key], 1)
    for name, entry in options["regressors"].items():
        if not isinstance(entry, Mapping) or not entry.get("features") or "model" not in entry:
            raise InputError(
                f"surrogate.regressors.{name} must be like {{features: [plaquette], model: {{...}}}}, "
                f"got {entry!r}"
            )
        instantiate(entry["model"], Regressor)  # type: ignore[type-abstract]
    return options, MarkovSets.in_order(*(options["sets"][key] for key in _SETS))


def _check_names(options: Mapping[str, Any], system: System, seed: int) -> None:
    """Every label and feature must be measured; asked of one starting field."""
    rng = torch.Generator(system.device)
    rng.manual_seed(seed)
    field = system.start(1, seed)
    known = [name for observable in system.observables for name in observable.measure(field, rng)]
    wanted = [options["label"], *(f for entry in options["regressors"].values() for f in entry["features"])]
    if missing := [name for name in wanted if name not in known]:
        raise InputError(f"nothing measures {', '.join(missing)}; the observables give {', '.join(known)}")
    for name, entry in options["regressors"].items():
        if options["label"] in entry["features"]:
            raise InputError(
                f"surrogate.regressors.{name} has the label {options['label']!r} among its features"
            )


def _sample(
    config: Mapping[str, Any], name: str, system: System, sets: MarkovSets, folder: RunFolder
) -> SamplingResult:
    seed = derive_seed(int(config["seed"]), "surrogate", name)
    how = SamplingPlan(
        config["sampling"]["n_thermalise"], sets.n_steps, 1, config["sampling"]["checkpoint_every"]
    )
    start = system.start(config["stream"]["n_chains"], derive_seed(seed, "start"))
    return sample_exactly(
        system.hmc(), start, how, system.observables, seed, folder.chains(name, 0), f"HMC, {name}"
    )


def _seconds(system: System, result: SamplingResult, label: str) -> dict[str, float]:
    """Seconds a configuration of label, features and trajectory; solver iterations of the label."""
    found = {"label": 0.0, "features": 0.0}
    rng = torch.Generator(system.device)
    rng.manual_seed(1)
    for observable in system.observables:
        times = []
        for _ in range(3):
            tic = perf_counter()
            names = list(observable.measure(result.state.field, rng))
            times.append(perf_counter() - tic)
        found["label" if label in names else "features"] += min(times) / len(result.state.field)
    history = result.history
    found["trajectory"] = result.seconds / history["accepted"].numel()
    if "trace_inverse_iterations" in history:
        found["label_iterations"] = float(history["trace_inverse_iterations"].mean())
    found["trajectory_iterations"] = sum(
        float(history[n].mean()) for n in history.series if n.startswith("iterations_")
    )
    return found


def _arrays(result: SamplingResult) -> dict[str, Array]:
    return {name: values.numpy() for name, values in result.history.as_dict().items()}


def _row(
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    sets: MarkovSets,
    series: Mapping[str, Mapping[str, Array]],
    trained_on: str,
    costs: Mapping[str, float],
) -> tuple[dict[str, Any], tuple[Array, Array]]:
    features = {
        place: np.stack([s[name] for name in given["features"]], -1) for place, s in series.items()
    }
    label, tic = options["label"], perf_counter()
    model = instantiate(given["model"], Regressor)  # type: ignore[type-abstract]
    x, y = sets.take(features[trained_on], "train"), sets.take(series[trained_on][label], "train")
    model.fit(x.reshape(-1, x.shape[-1]), y.ravel())
    fit_seconds = perf_counter() - tic

    def predicted(which: str) -> Array:
        part = sets.take(features[HERE], which)
        return model.predict(part.reshape(-1, part.shape[-1])).reshape(part.shape[:2])

    exact = {which: sets.take(series[HERE][label], which) for which in ("correction", "unlabelled")}
    guess = {which: predicted(which) for which in exact}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        result = bias_corrected(
            exact["correction"], guess["correction"], guess["unlabelled"], options["form"], label
        )
    everything = np.concatenate(list(exact.values()), 1)
    approximate = np.concatenate(list(guess.values()), 1)
    full = estimate(everything, label)
    share = guess["unlabelled"].size / approximate.size if options["form"] == "all" else 1.0
    by_chain = share * guess["unlabelled"].mean(1) + (
        exact["correction"] - share * guess["correction"]
    ).mean(1)
    row = {
        "features": list(given["features"]), "trained_on": trained_on,
        "corrected": {"value": result.value, "error": result.error, "reliable": result.reliable,
                      "reason": result.reason},
        "uncorrected": asdict(result.uncorrected), "full": asdict(full), "labels": asdict(result.labels),
        "correlation": result.correlation, "gain": result.gain,
        "bias_pull": _pull(approximate.mean(1) - everything.mean(1)),
        "corrected_pull": _pull(by_chain - everything.mean(1)),
        "n_train": int(y.size), "n_bc": result.n_correction, "n_unlabelled": result.n_unlabelled,
        "fit_seconds": fit_seconds, "warnings": [str(w.message) for w in caught],
    }
    training = y.size * costs["label"] + fit_seconds
    if full.error:
        moments = Moments.from_series(exact["correction"], guess["correction"])
        planned = plan(moments, Costs(costs["label"], costs["features"], training=training), full.error)
        row["plan"] = asdict(planned)
    return row, (exact["correction"], guess["correction"])


def _pull(differences: Array) -> float | None:
    """Mean over its error from the chains, whose parts are of the same configurations."""
    if len(differences) < 8 or differences.std() == 0:
        return None
    return float(differences.mean() / (differences.std(ddof=1) / np.sqrt(len(differences))))


def _publish(
    target: Path, folder: RunFolder, summary: Mapping[str, Any], pictures: Mapping[str, tuple[Array, Array]]
) -> None:
    common = {key: summary[key] for key in ("experiment", "version", "seed", "device", "threads", "costs")}
    config = summary["config"]
    rows = [
        {
            "row": name, "command": command_of(config),
            "parameters": {key: config[key] for key in ("lattice", "group", "action")},
            "summary": {**common, "correction": row},
        }
        for name, row in summary["surrogates"].items()
    ]
    lines = ["| " + " | ".join(HEADER) + " |", "| --- " * len(HEADER) + "|"]
    lines += ["| " + " | ".join(line) + " |" for line in surrogate_table(summary)]
    write_results(target, folder, rows, "\n".join(lines))
    surrogate_figure(summary, pictures).savefig(target / "figure.png", dpi=140)
