"""One experiment at several points: the same rows on other lattices or at other couplings.

Every point is a run of its own in ``points/<name>`` of the run folder, with a seed of its own; a
finished one is read, an interrupted one goes on. One summary, one report and one publication hold all
of them, rows being named ``point/row``. A row may take its flow from an earlier point, trained there
(``flow_of: point/row``), or start its training from it (``warm_start: point/row``).
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict
from difflib import get_close_matches
from time import perf_counter
from typing import Any

import torch
from rich.console import Console

from lattice_lightning.analysis import Estimate
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import check_name
from lattice_lightning.pipeline.device import process_rank
from lattice_lightning.pipeline.estimate import clock, measure_stages, print_plan
from lattice_lightning.pipeline.exact import judge_rows
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import (
    Outcome,
    load_histories,
    load_log_weights,
    save_histories,
    save_log_weights,
)
from lattice_lightning.pipeline.processes import broadcast, check_processes, process_group
from lattice_lightning.pipeline.rows import merged
from lattice_lightning.pipeline.summarise import summarise
from lattice_lightning.pipeline.train import check, compute, finish, run_folder
from lattice_lightning.seeds import derive_seed

__all__ = ["check_points", "point_configs", "train_points"]

_FIXED = ("points", "name", "resume", "dry_run", "publish", "output_dir", "trainer", "logger", "scan")


def point_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config of every point, by name: the run's with the point's differences over it.

    A row that a point sets to null is left out there. Values of a config that follow others
    (``${...}``) have followed them before; a point sets both.

    Raises:
        InputError: for an unknown key, or one that belongs to the whole run.
    """
    points = config["points"]
    if not isinstance(points, Mapping) or not points:
        raise InputError(f"points must be like {{E1: {{lattice: [6, 6]}}}}, got {points!r}")
    known = [key for key in config if key not in _FIXED]
    found = {}
    for name, given in points.items():
        check_name("the name of a point", name)
        changes = dict(given or {}) if isinstance(given or {}, Mapping) else {"": given}
        for key in changes:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"point {name!r} cannot set {key!r}; {hint}known: {', '.join(known)}")
        point = merged(deepcopy(dict(config)), changes)
        point["rows"] = {row: options for row, options in (point["rows"] or {}).items() if options}
        if "seed" not in changes:
            # pulls of several points are judged together: their random numbers must be unrelated
            point["seed"] = derive_seed(int(config["seed"]), "point", str(name)) % 2**31
        point.update(points=None, publish=None, resume=None)
        found[str(name)] = point
    return found


def _sources(
    configs: Mapping[str, Mapping[str, Any]], name: str
) -> Iterator[tuple[str, str, str, str]]:
    """Rows of a point that take a flow of another: (row, key, point, row there).

    Raises:
        InputError: when there is none, or it is not trained before this point.
    """
    earlier = list(configs)[: list(configs).index(name)]
    for row, options in configs[name]["rows"].items():
        for key in ("flow_of", "warm_start"):
            point, slash, source = str(options.get(key) or "").rpartition("/")
            if not slash or (key == "warm_start" and point not in configs):
                continue
            trained = [
                f"{p}/{r}" for p in earlier for r, o in configs[p]["rows"].items()
                if o.get("flow") and o.get("train") is not False
            ]
            if f"{point}/{source}" not in trained:
                raise InputError(
                    f"row {row!r} of point {name!r}: {key} names {point}/{source}; flows trained at "
                    f"earlier points: {', '.join(trained) or 'none'}"
                )
            yield row, key, point, source


def _checkable(configs: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """A point's config to build before the flows that it takes from others are trained."""
    config = deepcopy(configs[name])
    for row, key, point, source in _sources(configs, name):
        options = config["rows"][row]
        del options[key]
        if key == "flow_of":
            there = configs[point]["rows"][source]
            options.update(prior=there["prior"], flow=there["flow"], train=False)
    return config


def _runnable(configs: Mapping[str, dict[str, Any]], name: str, folder: RunFolder) -> dict[str, Any]:
    """A point's config with the files of the flows that it takes from others."""
    config = deepcopy(configs[name])
    for row, key, point, source in _sources(configs, name):
        options = config["rows"][row]
        del options[key]
        path = str(RunFolder(folder.point(point)).weights(source))
        options["checkpoint" if key == "flow_of" else "warm_start"] = path
    return config


def check_points(config: Mapping[str, Any], rank: int = 0) -> tuple[torch.device, dict[str, Experiment]]:
    """Refuse what cannot work at any point; the device and the points as far as they can be built.

    Raises:
        InputError: naming the point.
    """
    device = check(config, rank)
    configs = point_configs(config)
    experiments = {}
    for name in configs:
        try:
            experiments[name] = Experiment(_checkable(configs, name), None, device, rank)
        except InputError as error:
            raise InputError(f"point {name!r}: {error}") from error
    return device, experiments


def train_points(config: Mapping[str, Any], console: Console | None = None) -> dict[str, Any]:
    """Run all points; returns the summary of all (an empty dict for a dry run).

    Args:
        config: resolved plain config with ``points``.
        console: where to print; by default the terminal.

    Raises:
        InputError: for anything in the config that cannot work, before the first trajectory.
        ResumeError: when the folder to resume belongs to another config.
    """
    rank = process_rank()
    console = console or Console(quiet=rank != 0)
    if config["dry_run"]:
        _, experiments = check_points(config, rank)
        total = 0.0
        for name, experiment in experiments.items():
            console.print(f"\npoint {name}", style="bold")
            stages = measure_stages(experiment)
            total += sum(stage.seconds for stage in stages)
            print_plan(experiment, stages, console)
        console.print(f"all points: about {clock(total)}")
        return {}
    check_processes(config["trainer"])
    device, _ = check_points(config, rank)
    with process_group(device):
        folder = RunFolder(broadcast(run_folder(config).path if rank == 0 else None))
        try:
            return _run(config, folder, device, rank, console)
        except KeyboardInterrupt:
            console.print(f"\nstopped; go on with: python train.py resume={folder.path}")
            raise


def _run(
    config: Mapping[str, Any], folder: RunFolder, device: torch.device, rank: int, console: Console
) -> dict[str, Any]:
    console.print(f"run folder {folder.path}")
    tic = perf_counter()
    configs, outcomes = point_configs(config), {}
    for name in configs:
        place = RunFolder(folder.point(name))
        outcome = _read(place)
        if outcome is None:
            console.print(f"\npoint {name}", style="bold")
            place.path.mkdir(parents=True, exist_ok=True)
            experiment = Experiment(_runnable(configs, name, folder), None, device, rank)
            outcome = compute(experiment, place, console)
            if rank == 0:
                _write(place, outcome)
        outcomes[name] = outcome
    if rank != 0:
        return {}
    joint = _joint(outcomes)
    for name, row in joint.rows.items():
        point = configs[name.rpartition("/")[0]]
        row["parameters"] = {"point": name.rpartition("/")[0], **_theory(point)}
    references = {
        f"{name}/{row}": f"{name}/{outcome.reference}" if outcome.reference else None
        for name, outcome in outcomes.items() for row in outcome.rows
    }
    summary = summarise(config, device, joint.rows, joint.observables, references)
    if any(point.get("exact") for point in configs.values()):
        summary["judgement"] = judge_rows(joint.observables, joint.rows)
    finish(summary, joint, folder, config, console)
    console.print(f"done in {clock(perf_counter() - tic)}; report: {folder.report}")
    return summary


def _theory(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("lattice", "group", "action")}


def _joint(outcomes: Mapping[str, Outcome]) -> Outcome:
    """All points in one, rows named ``point/row``."""

    def named(field: str) -> dict[str, Any]:
        return {
            f"{point}/{row}": value
            for point, outcome in outcomes.items()
            for row, value in getattr(outcome, field).items()
        }

    return Outcome(
        deepcopy(named("rows")), named("observables"), named("histories"), named("log_weights"), None
    )


def _write(folder: RunFolder, outcome: Outcome) -> None:
    """Keep what a point found; the small file is last and says that the point is finished."""
    save_histories(folder.path / "histories.npz", outcome.histories)
    save_log_weights(folder.path / "log_weights.npz", outcome.log_weights)
    payload = {
        "rows": outcome.rows, "reference": outcome.reference,
        "observables": {
            row: {name: asdict(found) for name, found in estimated.items()}
            for row, estimated in outcome.observables.items()
        },
    }
    partial = folder.path / "point.partial"
    partial.write_text(json.dumps(payload))
    partial.replace(folder.path / "point.json")


def _read(folder: RunFolder) -> Outcome | None:
    """What a finished point found."""
    path = folder.path / "point.json"
    if not path.exists():
        return None
    payload = json.loads(path.read_text())
    observables = {
        row: {name: Estimate(**found) for name, found in estimated.items()}
        for row, estimated in payload["observables"].items()
    }
    return Outcome(
        payload["rows"], observables, load_histories(folder.path / "histories.npz"),
        load_log_weights(folder.path / "log_weights.npz"), payload["reference"],
    )
