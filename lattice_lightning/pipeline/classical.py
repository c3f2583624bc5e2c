"""Runs of ``classical``: all-mode averaging of solver observables, sloppy solves corrected by exact ones.

Every source of every configuration is solved exactly as well as at each tolerance, so that the gain of
1208.4349 can be compared with its formula, and the corrected average with everything exact.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lattice_lightning import __version__
from lattice_lightning.analysis import estimate, judge_pulls
from lattice_lightning.analysis.all_mode import AllMode, judge_zero_means, setting
from lattice_lightning.analysis.all_mode_report import (
    HEADER,
    classical_figure,
    classical_markdown,
    classical_table,
    judgement_lines,
    setting_label,
    write_classical_report,
)
from lattice_lightning.analysis.errors import MIN_CHAINS, Array
from lattice_lightning.callbacks import SamplingPlan, SamplingResult, sample_exactly
from lattice_lightning.exceptions import InputError
from lattice_lightning.observables.sloppy import PICK, SloppySources
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import check_integer, check_numbers, explained
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import save_histories
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, write_json, write_results
from lattice_lightning.pipeline.train import run_folder
from lattice_lightning.seeds import derive_seed

__all__ = ["classical"]

_KEYS = {"mass", "boundary", "times", "trace", "tolerances", "exact", "n_sources"}
#: measurements a chain that the Gamma method needs when one chain is left out
MIN_MEASUREMENTS = 5


def classical(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Sample, solve every source at every tolerance, average, correct, compare; resumable.

    Raises:
        InputError: for anything in the config that cannot work, before the first trajectory.
    """
    check_numbers(config)
    check_target(config)
    require_one_process(config["trainer"], "a run of all-mode averaging")
    device = choose_device(config["trainer"])
    counts = _check(config)
    system = System(config, device)
    sources = _sources(config, system, counts)
    n_measured = config["sampling"]["n_steps"] // config["sampling"]["measure_every"]
    if config["dry_run"]:
        console.print(
            f"{config['stream']['n_chains']} chains x {n_measured} measurements of {sources.n_sources} "
            f"sources at {len(sources.levels)} tolerances: {', '.join(sources.quantities)}"
        )
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    result = _sample(config, system, sources, folder)
    series = {name: values.numpy() for name, values in result.history.as_dict().items()}
    costs = _costs(sources, result, series, config["sampling"]["measure_every"])
    quantities = {name: _quantity(sources, name, series, counts, costs) for name in sources.quantities}
    summary = {
        "experiment": config["name"], "version": __version__, "seed": config["seed"], "device": str(device),
        "threads": torch.get_num_threads(), "config": json.loads(json.dumps(config)), "costs": costs,
        "acceptance": asdict(estimate(series["accepted"], "accepted", proportion=True)),
        "observables": {
            name: asdict(estimate(s, name)) for name, s in series.items() if _is_plain(name, sources)
        },
        "quantities": quantities,
        "judgement": _judgement(sources, series, counts, quantities),
    }
    write_json(folder.summary, summary)
    save_histories(folder.path / "histories.npz", {"hmc": series})
    write_classical_report(folder.report, summary)
    _print(summary, console)
    if config["publish"]:
        _publish(Path(config["publish"]), folder, summary)
        console.print(f"published in {config['publish']}")
    console.print(f"report: {folder.report}")
    return summary


def _check(config: Mapping[str, Any]) -> list[int]:
    """The numbers of sources to average over, of a config that can be run."""
    given = config["classical"]
    if not isinstance(given, Mapping):
        raise InputError(f"classical must be a mapping with {', '.join(sorted(_KEYS))}, got {given!r}")
    if unknown := set(given) - _KEYS:
        raise InputError(f"classical has no key {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}")
    if missing := _KEYS - set(given):
        raise InputError(f"classical needs {', '.join(sorted(missing))}")
    counts = given["n_sources"]
    if not isinstance(counts, list) or not counts:
        raise InputError(f"classical.n_sources must be a list like [1, 4, 16], got {counts!r}")
    for count in counts:
        check_integer("every one of classical.n_sources", count, 1)
    if max(counts) < 2:
        raise InputError(f"classical.n_sources must have a number above 1 to average over, got {counts}")
    n_chains, sampling = config["stream"]["n_chains"], config["sampling"]
    if n_chains <= MIN_CHAINS:
        raise InputError(
            f"stream.n_chains must be at least {MIN_CHAINS + 1}, got {n_chains}: the errors of the gains "
            "leave out a chain at a time"
        )
    measured = sampling["n_steps"] // sampling["measure_every"]
    if measured < MIN_MEASUREMENTS:
        raise InputError(
            f"sampling.n_steps / sampling.measure_every gives {measured} measurements a chain; at least "
            f"{MIN_MEASUREMENTS} are needed for an autocorrelation time"
        )
    # one source is what the others are compared with
    return sorted({1, *counts})


def _sources(config: Mapping[str, Any], system: System, counts: list[int]) -> SloppySources:
    options = {key: value for key, value in config["classical"].items() if key != "n_sources"}
    with explained(f"classical cannot be made of {options}"):
        return SloppySources(system.lattice, system.space, n_sources=max(counts), **options)


def _sample(
    config: Mapping[str, Any], system: System, sources: SloppySources, folder: RunFolder
) -> SamplingResult:
    sampling, seed = config["sampling"], derive_seed(int(config["seed"]), "classical")
    how = SamplingPlan(
        *(sampling[key] for key in ("n_thermalise", "n_steps", "measure_every", "checkpoint_every"))
    )
    start = system.start(config["stream"]["n_chains"], derive_seed(seed, "start"))
    return sample_exactly(
        system.hmc(), start, how, [*system.observables, sources], seed, folder.chains("hmc", 0), "HMC"
    )


def _kinds(sources: SloppySources) -> list[str]:
    return list(dict.fromkeys(sources.kind(q) for q in sources.quantities))


def _costs(
    sources: SloppySources, result: SamplingResult, series: Mapping[str, Array], every: int
) -> dict[str, float]:
    """Iterations and seconds of one source of one configuration, by kind and level; trajectories."""
    found: dict[str, float] = {}
    for kind in _kinds(sources):
        iterations = sources.gather(series, f"{kind}_iterations")
        for level in range(len(sources.levels)):
            found[f"{kind}_iterations_l{level}"] = float(iterations[level].mean())
            found[f"{kind}_seconds_l{level}"] = _seconds(sources, result.state.field, kind, level)
    found["configuration_iterations"] = every * sum(
        float(values.mean()) for name, values in series.items() if name.startswith("iterations_")
    )
    return found


def _seconds(sources: SloppySources, field: torch.Tensor, kind: str, level: int) -> float:
    """Wall time of one source, configuration by configuration share of a batch of all chains."""
    rng = torch.Generator(field.device)
    rng.manual_seed(1)
    operator = sources.operator.to(field.device)
    matrices = operator.hop_matrices(operator.group.pack(field))
    points, noise = sources.draw(len(field), rng)
    times = []
    for k in range(min(3, sources.n_sources)):
        tic = perf_counter()
        if kind == "points":
            sources.solve_points(matrices, points[k : k + 1], level)
        else:
            sources.solve_noise(matrices, noise[k : k + 1], level)
        times.append(perf_counter() - tic)
    return float(np.median(times)) / len(field)


def _quantity(
    sources: SloppySources,
    name: str,
    series: Mapping[str, Array],
    counts: list[int],
    costs: Mapping[str, float],
) -> dict[str, Any]:
    """Every setting of one quantity, exact ones first, and the cheapest at equal error."""
    values, kind, settings = sources.gather(series, name), sources.kind(name), []
    for level, tolerance in enumerate([None, *sources.levels[1:]]):
        for n in counts:
            both = costs[f"{kind}_iterations_l0"], costs[f"{kind}_iterations_l{level}"]
            found = setting(
                values[0], values[level], series[PICK], n, both, f"{name}, {n} sources", level == 0
            )
            seconds = n * costs[f"{kind}_seconds_l{level}"] + (level > 0) * costs[f"{kind}_seconds_l0"]
            trajectories = costs["configuration_iterations"]
            paid = (found["cost"] + trajectories) / (both[0] + trajectories)
            with_trajectories = {key: paid * value for key, value in found["measured"].items()}
            settings.append({
                "tolerance": tolerance, **found, "seconds": seconds,
                "merit_with_trajectories": with_trajectories,
            })
    best = min(settings, key=lambda s: s["merit_one"]["value"])
    return {"kind": kind, "settings": settings, "best": setting_label(best)}


def _is_plain(name: str, sources: SloppySources) -> bool:
    """Whether a series is an observable beside the sources."""
    own = (*sources.quantities, "points_iterations", "noise_iterations", PICK)
    diagnostics = ("accepted", "delta_H", "iterations")
    return not name.startswith((*own, *diagnostics))


def _judgement(
    sources: SloppySources,
    series: Mapping[str, Array],
    counts: list[int],
    quantities: Mapping[str, Any],
) -> dict[str, Any]:
    """All settings together: corrected against everything exact, gains against the formula."""
    differences = []
    for name in sources.quantities:
        values = sources.gather(series, name)
        for sloppy in values[1:]:
            for n in (n for n in counts if n > 1):
                mode = AllMode(values[0], sloppy, series[PICK], n)
                differences.append(mode.estimates - mode.everything)
    found: dict[str, Any] = {"correction": judge_zero_means(np.array(differences))}
    several = [
        s for q in quantities.values() for s in q["settings"]
        if s["tolerance"] is not None and s["n_sources"] > 1
    ]
    for key, misses in (("formula", "formula_misses"), ("formula_error", "formula_misses_error")):
        pulls = [s[misses]["value"] / s[misses]["error"] for s in several if s[misses]["error"] > 0]
        judged = judge_pulls(pulls)
        found[key] = {
            "chi2": judged.chi2, "dof": judged.dof, "p_value": judged.p_value, "largest": judged.max_abs,
            "ok": judged.ok,
        }
    return found


def _print(summary: Mapping[str, Any], console: Console) -> None:
    for name, found in summary["quantities"].items():
        table = Table(*HEADER, title=name)
        for line in classical_table(found["settings"]):
            table.add_row(*line, style="bold" if line[0] == found["best"] else None)
        console.print(table)
    for text in judgement_lines(summary["judgement"]):
        console.print(text, highlight=False)


def _publish(target: Path, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    common = {
        key: summary[key]
        for key in ("experiment", "version", "seed", "device", "threads", "costs", "acceptance",
                    "judgement")
    }
    config = summary["config"]
    rows = [
        {
            "row": f"{name}, {setting_label(entry)}", "command": command_of(config),
            "parameters": {key: config[key] for key in ("lattice", "group", "action", "classical")},
            "summary": {**common, "setting": entry, "best": setting_label(entry) == found["best"]},
        }
        for name, found in summary["quantities"].items() for entry in found["settings"]
    ]
    write_results(target, folder, rows, classical_markdown(summary))
    classical_figure(summary).savefig(target / "figure.png", dpi=140)
