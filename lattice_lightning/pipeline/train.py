"""The command ``train``: build, estimate, stream, fit, sample, summarise, report."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console

from lattice_lightning.analysis import doubts, summary_table, write_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.callbacks import SamplingResult
from lattice_lightning.data import Ensemble
from lattice_lightning.metrics import ess_from_target
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.device import choose_device, process_rank
from lattice_lightning.pipeline.estimate import clock, measure_stages, print_plan
from lattice_lightning.pipeline.exact import judge_rows, known_values
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.fit import Fitted, check_trainer
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.importance import Draws
from lattice_lightning.pipeline.outcome import (
    Outcome,
    load_histories,
    read_all_metrics,
    save_histories,
    save_log_weights,
)
from lattice_lightning.pipeline.processes import broadcast, check_processes, process_group
from lattice_lightning.pipeline.publish import check_target, publish
from lattice_lightning.pipeline.rows import is_trained
from lattice_lightning.pipeline.summarise import estimates, held_out_entry, row_summary, summarise
from lattice_lightning.pipeline.weights import training_seconds

__all__ = [
    "check", "check_alone", "compute", "finish", "load_histories", "print_judgement", "run_folder",
    "save_histories", "summary_of", "train",
]


def train(config: Mapping[str, Any], console: Console | None = None) -> dict[str, Any]:
    """Run an experiment; returns its summary (an empty dict for a dry run).

    Args:
        config: resolved plain config, see ``configs/train.yaml``.
        console: where to print; by default the terminal.

    Raises:
        InputError: for anything in the config that cannot work, before the first trajectory.
        ResumeError: when the folder to resume belongs to another config.
    """
    rank = process_rank()
    console = console or Console(quiet=rank != 0)
    device = check(config, rank)
    if config["dry_run"]:
        experiment = Experiment(config, None, device, rank)
        print_plan(experiment, measure_stages(experiment), console)
        return {}
    check_processes(config["trainer"])
    with process_group(device):
        checked = Experiment(config, None, device, rank)
        # one folder for all processes
        folder = RunFolder(broadcast(run_folder(config).path if rank == 0 else None))
        try:
            return _run(checked, folder, console)
        except KeyboardInterrupt:
            console.print(f"\nstopped; go on with: python train.py resume={folder.path}")
            raise


def check(config: Mapping[str, Any], rank: int = 0) -> torch.device:
    """Refuse what cannot work and can be told without building it; returns the device of a rank.

    Raises:
        InputError: for anything in the config that cannot work.
    """
    check_numbers(config)
    device = choose_device(config["trainer"], rank)
    check_trainer(config)
    check_target(config)
    return device


def check_alone(config: Mapping[str, Any]) -> None:
    """All that a run checks before its first trajectory, for the process that starts the others.

    Raises:
        InputError: for anything in the config that cannot work.
        ResumeError: when the folder to resume belongs to another config.
    """
    if config.get("points"):
        from lattice_lightning.pipeline.points import check_points

        check_points(config)
        return
    check(config)
    # on the CPU: the memory of the GPUs is for the processes
    Experiment(config, None, "cpu")
    if config["resume"]:
        run_folder(config)


def run_folder(config: Mapping[str, Any]) -> RunFolder:
    """A new folder, or the one to resume, which must be of the same config."""
    if not config["resume"]:
        return RunFolder.create(config)
    folder = RunFolder.find(config["resume"])
    folder.require_same(config)
    return folder


def _run(experiment: Experiment, folder: RunFolder, console: Console) -> dict[str, Any]:
    config, tic = experiment.config, perf_counter()
    console.print(f"run folder {folder.path}")
    outcome = compute(experiment, folder, console)
    if experiment.rank != 0:
        return {}
    summary = summary_of(outcome, config, experiment.system.device)
    finish(summary, outcome, folder, config, console)
    console.print(f"done in {clock(perf_counter() - tic)}; report: {folder.report}")
    return summary


def finish(
    summary: dict[str, Any],
    outcome: Outcome,
    folder: RunFolder,
    config: Mapping[str, Any],
    console: Console,
) -> None:
    """Write summary, histories and report; print table, doubts and judgement; publish."""
    write_summary(folder.summary, summary)
    save_histories(folder.path / "histories.npz", outcome.histories)
    save_log_weights(folder.path / "log_weights.npz", outcome.log_weights)
    write_report(
        folder.report, summary, read_all_metrics(folder), outcome.histories, outcome.log_weights
    )
    console.print(summary_table(summary))
    for doubt in doubts(summary):
        console.print(f"! {doubt}", highlight=False)
    print_judgement(summary, console)
    if config["publish"]:
        published = publish(Path(config["publish"]), folder, summary, config)
        console.print(f"published in {published}")


def print_judgement(summary: Mapping[str, Any], console: Console) -> None:
    """One line a row: its pulls against exact values, judged together."""
    for row, judged in (summary.get("judgement") or {}).items():
        console.print(
            f"{row}: {len(judged['pulls'])} pulls against exact values, largest {judged['largest']:.2f}, "
            f"chi^2 {judged['chi2']:.1f} of {judged['dof']}, p = {judged['p_value']:.3f}, "
            f"{len(judged['without_error'])} without error: "
            + ("agrees" if judged["ok"] else "DOES NOT AGREE"),
            highlight=False,
        )


def compute(experiment: Experiment, folder: RunFolder, console: Console) -> Outcome:
    """Every stage of an experiment, going on where the folder's last session ended."""
    config = experiment.config
    experiment.into(folder)
    print_plan(experiment, measure_stages(experiment), console)
    timer = _timer(console)
    fitted: dict[str, Fitted] = {}
    if experiment.needs_hmc:
        with timer("thermalise"):
            experiment.thermalised()
    # a run that was killed after its training does not need the trajectories again
    stream = experiment.stream() if experiment.n_stream else None
    if any(not folder.weights(name).exists() for name in experiment.trained if name in experiment.methods):
        assert stream is not None
        with timer("stream"):
            experiment.fill(stream, experiment.n_stream, "streaming HMC")
    for name in experiment.trained:
        with timer(f"train {name}"), _loggers(config, folder, name) as loggers:
            fitted[name] = experiment.fit(name, stream, loggers)
    losses = {}
    if experiment.methods and config["stream"]["n_held_out"]:
        with timer("held out"):
            held_out = experiment.stream("held_out")
            experiment.thermalised("held_out")
            experiment.fill(held_out, config["stream"]["n_held_out"], "held-out HMC")
            losses = experiment.held_out_losses(held_out)
    draws: dict[str, Draws] = {}
    for name in experiment.weighted:
        with timer(f"weigh {name}"):
            draws[name] = experiment.weigh(name)
    results: dict[str, SamplingResult] = {}
    for name in experiment.rows:
        with timer(f"sample {name}"):
            results[name] = experiment.sample(name)
    if experiment.rank == 0 and not config["stream"]["keep"]:
        shutil.rmtree(folder.path / "stream", ignore_errors=True)
    return _outcome(experiment, fitted, losses, draws, results)


def _outcome(
    experiment: Experiment,
    fitted: Mapping[str, Fitted],
    losses: Mapping[str, Any],
    draws: Mapping[str, Draws],
    results: Mapping[str, SamplingResult],
) -> Outcome:
    rows, observables = {}, {}
    reference = next((n for n, r in experiment.rows.items() if r["sampler"] == "hmc"), None)
    exact = known_values(experiment.config, experiment.system)
    for name, row in experiment.rows.items():
        observables[name] = estimates(results[name], exact)
        source = row.get("flow_of") or name
        rows[name] = row_summary(
            row["sampler"], experiment.methods.get(name), fitted.get(source), results[name],
            observables[name], experiment.reversal_errors.get(name),
            learned=is_trained(row) or bool(row.get("checkpoint")),
            flow=experiment.flow_model(name), draws=draws.get(name),
            borrowed=training_seconds(file) if (file := experiment.rows[source].get("checkpoint")) else 0.0,
        )
        if name in draws and reference is not None:
            rows[name]["sampling"] |= _ess_of_target(experiment, name, reference, results[reference])
        if "log_z" in exact and "log_z" in rows[name]["sampling"]:
            rows[name]["sampling"]["log_z"]["exact"] = exact["log_z"]
        if name in losses:
            rows[name]["held_out"] = held_out_entry(name, losses, _baseline(experiment, name))
    return Outcome(
        rows, observables, {name: _arrays(result) for name, result in results.items()},
        {name: found.log_weights.numpy() for name, found in draws.items()},
        None if exact else reference,
    )


def _ess_of_target(
    experiment: Experiment, name: str, reference: str, result: SamplingResult
) -> dict[str, Any]:
    """ESS from fields of HMC, which sees modes that the flow misses: the stored ones, or its last."""
    assert experiment.folder is not None
    path = experiment.folder.ensemble(reference)
    stored = Ensemble(path) if path.exists() else None
    fields = [result.state.field] if stored is None else [stored[i] for i in range(len(stored))]
    log_weights = experiment.target_weights(name, fields)
    if log_weights is None or bool(torch.isnan(log_weights).all()):
        return {}
    value, error, n_failed = ess_from_target(log_weights)
    return {"ess_target": {"value": value, "error": error, "n": log_weights.numel(), "n_failed": n_failed}}


def summary_of(outcome: Outcome, config: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """summary.json of one experiment."""
    summary = summarise(config, device, outcome.rows, outcome.observables, outcome.reference)
    if config.get("exact"):
        summary["judgement"] = judge_rows(outcome.observables, outcome.rows)
    return summary


def _baseline(experiment: Experiment, name: str) -> str | None:
    """The trained row without a network that has the same masses."""
    masses = experiment.methods[name].effective.masses
    for other in experiment.trained:
        effective = experiment.methods[other].effective
        if effective.network is None and effective.masses == masses:
            return other
    return None


def _arrays(result: SamplingResult) -> dict[str, Any]:
    return {name: series.numpy() for name, series in result.history.as_dict().items()}


def _timer(console: Console) -> Any:
    @contextmanager
    def stage(name: str) -> Iterator[None]:
        tic = perf_counter()
        console.print(f"{name} ...", highlight=False)
        yield
        console.print(f"{name}: {clock(perf_counter() - tic)}", highlight=False)

    return stage


@contextmanager
def _loggers(config: Mapping[str, Any], folder: RunFolder, row: str) -> Iterator[list[Logger]]:
    """Weights & Biases beside metrics.csv, offline without a key; one W&B run a trained row."""
    options = (config.get("logger") or {}).get("wandb")
    if not options or process_rank() != 0 or folder.weights(row).exists():
        yield []
        return
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    def logger(offline: bool) -> WandbLogger:
        made = WandbLogger(
            project=options["project"], name=f"{config['name']}/{row}", save_dir=str(folder.path),
            group=options["group"] or folder.path.name, offline=offline,
            config=json.loads(json.dumps(config)),
        )
        _ = made.experiment  # starts the run, and finds out whether the server answers
        return made

    stored = folder.path / "wandb"
    # a server that did not answer for one row is not waited for again
    offline = any(stored.glob("offline-run-*")) or not (os.environ.get("WANDB_API_KEY") or _has_netrc())
    try:
        started = logger(offline)
    except (wandb.errors.Error, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"Weights & Biases cannot be reached ({reason}); logging offline",
            RuntimeWarning,
            stacklevel=2,
        )
        wandb.finish()
        offline, started = True, logger(True)
    try:
        yield [started]
    finally:
        # a second logger in one process would silently go on in this run
        wandb.finish()
        if offline:
            print(f"to upload later: wandb sync {stored}/offline-run-*")


def _has_netrc() -> bool:
    path = Path.home() / ".netrc"
    return path.exists() and "api.wandb.ai" in path.read_text(errors="ignore")
