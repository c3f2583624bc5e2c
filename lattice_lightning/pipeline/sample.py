"""The command ``sample``: exact sampling from trained weights alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lattice_lightning.analysis import doubts, summary_table, write_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.callbacks import SamplingPlan, SamplingResult, sample_exactly
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.build import build_kernel
from lattice_lightning.pipeline.checks import check_integer
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.exact import known_values
from lattice_lightning.pipeline.experiment import MAX_REVERSAL_ERROR
from lattice_lightning.pipeline.flows import build_flow_kernel, build_proposal, fresh_start
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.importance import draw_weights, halving
from lattice_lightning.pipeline.outcome import save_histories, save_log_weights
from lattice_lightning.pipeline.summarise import estimates, row_summary, summarise
from lattice_lightning.pipeline.weights import rebuild, rebuild_flow, stored_row
from lattice_lightning.samplers import SelfLearningHMC, run
from lattice_lightning.seeds import derive_seed

__all__ = ["DEFAULTS", "sample_command"]

N_HALVING = 64
DEFAULTS: dict[str, Any] = {
    "checkpoint": None,
    "n_chains": 16,
    "n_thermalise": 20,
    "n_steps": 60,
    "seed": 1,
    "device": "cpu",
    "lattice": None,
    "n_draws": 16384,
    "batch_size": 1024,
    "output_dir": "outputs",
}


def sample_command(given: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Rebuild system and model from the file, thermalise, sample, write summary and report.

    Effective actions start from chains that HMC thermalised; flows from draws of their own, on the
    stored lattice or on ``lattice``, with their importance weights beside.

    Raises:
        InputError: for unknown keys or a missing checkpoint.
    """
    if unknown := set(given) - set(DEFAULTS):
        raise InputError(f"sample has no key {sorted(unknown)}; known: {', '.join(DEFAULTS)}")
    options = {**DEFAULTS, **given}
    if not options["checkpoint"]:
        raise InputError("sample needs checkpoint=FILE, such as experiments/cask_su2/cask.pt")
    for key, least in (("n_chains", 1), ("n_steps", 1), ("n_thermalise", 0), ("seed", 0), ("n_draws", 2),
                       ("batch_size", 1)):
        check_integer(key, options[key], least)
    device = choose_device({"accelerator": "gpu" if options["device"] == "cuda" else options["device"]})
    payload, row, name = stored_row(str(options["checkpoint"]))
    if row["sampler"] == "self_learning_hmc":
        if options["lattice"] is not None:
            raise InputError("lattice= is for flows; an effective action is sampled on its own lattice")
        return _effective(name, row, options, device, console)
    return _flow(name, row, payload["origin"]["config"], options, device, console)


def _folder(stored: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], RunFolder]:
    config = {
        **stored, "name": f"{stored['name']}_sample", "seed": int(options["seed"]),
        "output_dir": str(options["output_dir"]), "checkpoint": str(options["checkpoint"]),
    }
    if options["lattice"] is not None:
        config["lattice"] = list(options["lattice"])
    return config, RunFolder.create(config)


def _effective(
    name: str, row: Mapping[str, Any], options: Mapping[str, Any], device: torch.device, console: Console
) -> dict[str, Any]:
    """Self-learning HMC."""
    system, method = rebuild(str(options["checkpoint"]), device)
    stored = method.origin["config"]
    kernel = build_kernel(system, row, method)
    assert isinstance(kernel, SelfLearningHMC)
    seed = int(options["seed"])
    start = system.start(int(options["n_chains"]), derive_seed(seed, "start"))
    config, folder = _folder(stored, options)
    console.print(f"{name} of {stored['name']}: {method.effective.n_parameters} parameters; {folder.path}")
    rng = torch.Generator(device)
    rng.manual_seed(derive_seed(seed, "thermalise"))
    hmc = system.hmc()
    state, _ = run(
        hmc, hmc.init(start, rng), int(options["n_thermalise"]), rng, progress="thermalising with HMC"
    )
    reversal = _reversal(float(kernel.reversal_error(rng, kernel.init(state.field, rng)).max()))
    plan = SamplingPlan(max(5, int(options["n_steps"]) // 10), int(options["n_steps"]))
    result = sample_exactly(
        kernel, state.field, plan, system.observables, derive_seed(seed, "sample"),
        folder.chains(name, 0), name,
    )
    observables = estimates(result)
    entry = row_summary(row["sampler"], method, None, result, observables, reversal, learned=True)
    summary = summarise(config, device, {name: entry}, {name: observables}, name)
    return _write(folder, name, summary, result, {}, console)


def _flow(
    name: str,
    row: Mapping[str, Any],
    stored: Mapping[str, Any],
    options: Mapping[str, Any],
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Independence Metropolis, or what else the row samples with, and direct draws."""
    lattice = options["lattice"]
    if lattice is not None and not isinstance(lattice, list):
        raise InputError(f"lattice must be like [8,8], got {lattice!r}")
    system, model = rebuild_flow(str(options["checkpoint"]), device, lattice=lattice)
    seed, size = int(options["seed"]), int(options["batch_size"])
    kernel = build_flow_kernel(system, row, model, size)
    start = fresh_start(system, row, model, int(options["n_chains"]), derive_seed(seed, "start"))
    config, folder = _folder(stored, options)
    shape = "x".join(map(str, system.lattice.shape))
    console.print(f"{name} of {stored['name']} on {shape}: {model.n_parameters} parameters; {folder.path}")
    draws = draw_weights(
        build_proposal(system, row, model, size), int(options["n_draws"]), size,
        derive_seed(seed, "importance"), system.device, folder.importance(name, 0), name,
    )
    draws = replace(draws, halving=halving(system, model, N_HALVING, derive_seed(seed, "halving"), size))
    reversal = None
    if hasattr(kernel, "reversal_error"):
        rng = torch.Generator(device)
        rng.manual_seed(derive_seed(seed, "reversal"))
        reversal = _reversal(float(kernel.reversal_error(rng, kernel.init(start, rng)).max()))
    plan = SamplingPlan(int(options["n_thermalise"]), int(options["n_steps"]))
    result = sample_exactly(
        kernel, start, plan, system.observables, derive_seed(seed, "sample"), folder.chains(name, 0), name
    )
    exact = known_values(stored, system)
    observables = estimates(result, exact)
    entry = row_summary(row["sampler"], None, None, result, observables, reversal, flow=model, draws=draws)
    reference = None if exact else name
    summary = summarise(config, device, {name: entry}, {name: observables}, reference)
    return _write(folder, name, summary, result, {name: draws.log_weights.numpy()}, console)


def _reversal(error: float) -> float:
    if not error < MAX_REVERSAL_ERROR:
        raise InputError(
            f"molecular dynamics is reversible to {error:.1e} only, demanded {MAX_REVERSAL_ERROR:.0e}"
        )
    return error


def _write(
    folder: RunFolder,
    name: str,
    summary: dict[str, Any],
    result: SamplingResult,
    log_weights: Mapping[str, Any],
    console: Console,
) -> dict[str, Any]:
    write_summary(folder.summary, summary)
    histories = {name: {n: s.numpy() for n, s in result.history.as_dict().items()}}
    save_histories(folder.path / "histories.npz", histories)
    save_log_weights(folder.path / "log_weights.npz", log_weights)
    write_report(folder.report, summary, [], histories, log_weights)
    console.print(summary_table(summary))
    for doubt in doubts(summary):
        console.print(f"! {doubt}", highlight=False)
    console.print(f"report: {Path(folder.report)}")
    return summary
