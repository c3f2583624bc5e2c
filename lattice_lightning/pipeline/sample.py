"""The command ``sample``: exact sampling from trained weights alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lattice_lightning.analysis import doubts, summary_table, write_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.callbacks import SamplingPlan, sample_exactly
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.build import build_kernel
from lattice_lightning.pipeline.checks import check_integer
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.experiment import MAX_REVERSAL_ERROR
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.rows import expand_rows
from lattice_lightning.pipeline.seeds import derive_seed
from lattice_lightning.pipeline.summarise import estimates, row_summary, summarise
from lattice_lightning.pipeline.train import save_histories
from lattice_lightning.pipeline.weights import rebuild
from lattice_lightning.samplers import SelfLearningHMC, run

__all__ = ["DEFAULTS", "sample_command"]

DEFAULTS: dict[str, Any] = {
    "checkpoint": None,
    "n_chains": 16,
    "n_thermalise": 20,
    "n_steps": 60,
    "seed": 1,
    "device": "cpu",
    "output_dir": "outputs",
}


def sample_command(given: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Rebuild system and model from the file, thermalise with HMC, sample, write summary and report.

    Raises:
        InputError: for unknown keys or a missing checkpoint.
    """
    if unknown := set(given) - set(DEFAULTS):
        raise InputError(f"sample has no key {sorted(unknown)}; known: {', '.join(DEFAULTS)}")
    options = {**DEFAULTS, **given}
    if not options["checkpoint"]:
        raise InputError("sample needs checkpoint=FILE, such as experiments/cask_su2/cask.pt")
    for key, least in (("n_chains", 1), ("n_steps", 1), ("n_thermalise", 0), ("seed", 0)):
        check_integer(key, options[key], least)
    device = choose_device({"accelerator": "gpu" if options["device"] == "cuda" else options["device"]})
    system, method = rebuild(str(options["checkpoint"]), device)
    name = method.origin["row"]
    stored = method.origin["config"]
    config = {
        **stored, "name": f"{stored['name']}_sample", "seed": int(options["seed"]),
        "output_dir": str(options["output_dir"]), "checkpoint": str(options["checkpoint"]),
    }
    row = expand_rows(stored)[name]
    kernel = build_kernel(system, row, method)
    assert isinstance(kernel, SelfLearningHMC)
    start = system.start(int(options["n_chains"]), derive_seed(int(options["seed"]), "start"))
    folder = RunFolder.create(config)
    console.print(f"{name} of {stored['name']}: {method.effective.n_parameters} parameters; {folder.path}")
    seed = int(options["seed"])
    rng = torch.Generator(device)
    rng.manual_seed(derive_seed(seed, "thermalise"))
    hmc = system.hmc()
    state, _ = run(
        hmc, hmc.init(start, rng), int(options["n_thermalise"]), rng, progress="thermalising with HMC"
    )
    reversal = float(kernel.reversal_error(rng, kernel.init(state.field, rng)).max())
    if not reversal < MAX_REVERSAL_ERROR:
        raise InputError(
            f"molecular dynamics is reversible to {reversal:.1e} only, demanded {MAX_REVERSAL_ERROR:.0e}"
        )
    plan = SamplingPlan(max(5, int(options["n_steps"]) // 10), int(options["n_steps"]))
    result = sample_exactly(
        kernel, state.field, plan, system.observables, derive_seed(seed, "sample"),
        folder.chains(name, 0), name,
    )
    observables = estimates(result)
    entry = row_summary(row["sampler"], method, None, result, observables, reversal, learned=True)
    summary = summarise(config, device, {name: entry}, {name: observables}, name)
    write_summary(folder.summary, summary)
    histories = {name: {n: s.numpy() for n, s in result.history.as_dict().items()}}
    save_histories(folder.path / "histories.npz", histories)
    write_report(folder.report, summary, [], histories)
    console.print(summary_table(summary))
    for doubt in doubts(summary):
        console.print(f"! {doubt}", highlight=False)
    console.print(f"report: {Path(folder.report)}")
    return summary
