"""Scans: HMC of two-dimensional theories at several couplings against exact values."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lattice_lightning.analysis import format_error, write_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.callbacks import SamplingPlan, sample_exactly
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import from_name
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import check_integer, check_numbers
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.estimate import clock
from lattice_lightning.pipeline.exact import exact_values, judgement
from lattice_lightning.pipeline.outcome import save_histories
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, publish
from lattice_lightning.pipeline.summarise import estimates, row_summary, summarise
from lattice_lightning.pipeline.train import run_folder

__all__ = ["exact_values", "points", "scan"]

_KEYS = {"group", "lattice", "betas", "n_steps", "observables"}


def points(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every point of a scan as a config of its own, by name.

    Raises:
        InputError: for unknown keys or a theory without exact values.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in config["scan"]:
        if unknown := set(entry) - _KEYS:
            raise InputError(f"scan has no key {sorted(unknown)}; known: {sorted(_KEYS)}")
        if missing := {"group", "lattice", "betas"} - set(entry):
            raise InputError(f"the scan's entry {entry} needs {sorted(missing)}")
        group = from_name(entry["group"]).name
        check_integer("scan: n_steps", entry.get("n_steps", 1), 1)
        if len(entry["lattice"]) != 2:
            raise InputError(f"exact values are known in two dimensions, got {entry['lattice']}")
        for beta in entry["betas"]:
            target = "lattice_lightning.actions.WilsonGauge"
            names = {
                "plaquette": {"_target_": "lattice_lightning.observables.Plaquette"},
                "charge": {"_target_": "lattice_lightning.observables.TopologicalCharge"},
            }
            asked = entry.get("observables", ["plaquette"])
            if unknown := set(asked) - set(names):
                raise InputError(f"scan: no observable {sorted(unknown)}; known: {sorted(names)}")
            wanted = {n: names[n] for n in asked}
            extents = entry["lattice"] if len(set(entry["lattice"])) > 1 else entry["lattice"][:1]
            name = f"{group} beta={beta:g} L={'x'.join(map(str, extents))}"
            if name in found:
                raise InputError(f"the scan has the point {name!r} twice; leave one of them out")
            found[name] = {
                **{k: config[k] for k in ("integrator", "start", "seed")},
                "group": group,
                "lattice": entry["lattice"],
                "action": {"gauge": {"_target_": target, "beta": beta}},
                "observables": wanted,
                "n_steps": entry.get("n_steps", config["sampling"]["n_steps"]),
            }
    return found


def _seconds(system: System, field: Tensor) -> float:
    """Wall time of one trajectory with its measurement, after a warm-up."""
    kernel, rng = system.hmc(), torch.Generator(system.device)
    rng.manual_seed(0)
    state = kernel.init(field, rng)
    seconds = 0.0
    for _ in range(2):
        tic = perf_counter()
        state, _ = kernel.decide(rng, kernel.propose(rng, state))
        for observable in system.observables:
            observable.measure(state.field, rng)
        if system.device.type == "cuda":
            torch.cuda.synchronize(system.device)
        seconds = perf_counter() - tic
    return seconds


def print_scan(config: Mapping[str, Any], systems: Mapping[str, System], console: Console) -> float:
    """Fields, trajectories, memory and time of every point; returns the seconds of all."""
    table = Table("point", "field", "trajectories", "memory", "about")
    total = 0.0
    for name, system in systems.items():
        field = system.start(config["stream"]["n_chains"], 0)
        steps = int(config["sampling"]["n_thermalise"]) + int(system.config["n_steps"])
        seconds = steps * _seconds(system, field)
        total += seconds
        # fields that a trajectory holds at once: links, momenta, forces, staples, old links
        memory = 5 * field.numel() * field.element_size() / 2**20
        table.add_row(name, str(list(field.shape)), str(steps), f"{memory:.1f} MiB", clock(seconds))
    table.add_row("all", "", "", "", clock(total), style="bold")
    console.print(table)
    return total


def scan(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Sample every point, compare with exact values, judge all pulls together."""
    check_numbers(config)
    check_target(config)
    require_one_process(config["trainer"], "a scan")
    device = choose_device(config["trainer"])
    systems = {name: System(point, device) for name, point in points(config).items()}
    if config["dry_run"]:
        print_scan(config, systems, console)
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    print_scan(config, systems, console)
    rows, observables, histories = {}, {}, {}
    for k, (name, system) in enumerate(systems.items()):
        point = system.config
        seed = int(config["seed"]) + 10_007 * (k + 1)
        start = system.start(config["stream"]["n_chains"], seed)
        plan = SamplingPlan(
            config["sampling"]["n_thermalise"], int(point["n_steps"]),
            config["sampling"]["measure_every"], config["sampling"]["checkpoint_every"],
        )
        kernel = system.hmc()
        file = folder.chains(name.replace(" ", "_"), 0)
        result = sample_exactly(kernel, start, plan, system.observables, seed + 1, file, name)
        beta = float(point["action"]["gauge"]["beta"])
        exact = exact_values(point["group"], beta, system.lattice.volume)
        observables[name] = estimates(result, exact)
        rows[name] = row_summary("hmc", None, None, result, observables[name])
        rows[name]["parameters"] = {
            "group": point["group"], "lattice": point["lattice"], "beta": beta, "action": point["action"],
        }
        histories[name] = {n: s.numpy() for n, s in result.history.as_dict().items()}
        line = ", ".join(
            f"{n} {format_error(o.value, o.error)} (exact {o.exact:.6g})"
            for n, o in observables[name].items() if o.exact is not None
        )
        console.print(f"{name}: {line}", highlight=False)
    summary = summarise(config, device, rows, observables, None)
    judged = summary["judgement"] = judgement(observables)
    pulls, without_error = judged["pulls"], judged["without_error"]
    write_summary(folder.summary, summary)
    save_histories(folder.path / "histories.npz", histories)
    write_report(folder.report, summary, [], histories)
    table = Table("point", "pull", title=f"{len(pulls)} pulls judged together")
    for name, pull in pulls.items():
        table.add_row(name, f"{pull:+.2f}")
    for name in without_error:
        table.add_row(name, "no error")
    console.print(table)
    if without_error:
        console.print(f"{len(without_error)} values have no error and cannot be judged: sample longer")
    console.print(
        f"largest {judged['largest']:.2f}, chi^2 {judged['chi2']:.1f} of {judged['dof']}, "
        f"p = {judged['p_value']:.3f}: " + ("agrees" if judged["ok"] else "DOES NOT AGREE")
    )
    if config["publish"]:
        console.print(f"published in {publish(Path(config['publish']), folder, summary, config)}")
    console.print(f"report: {folder.report}")
    return summary
