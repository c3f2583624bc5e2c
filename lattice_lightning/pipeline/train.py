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

import numpy as np
import torch
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console

from lattice_lightning.analysis import doubts, summary_table, write_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.callbacks import SamplingResult, read_metrics
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.device import choose_device, process_rank
from lattice_lightning.pipeline.estimate import clock, measure_stages, print_plan
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.fit import Fitted, check_trainer
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.processes import broadcast, check_processes, process_group
from lattice_lightning.pipeline.publish import check_target, publish
from lattice_lightning.pipeline.rows import is_trained
from lattice_lightning.pipeline.summarise import estimates, held_out_entry, row_summary, summarise

__all__ = ["check_alone", "load_histories", "save_histories", "train"]


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
        folder = RunFolder(broadcast(_folder(config).path if rank == 0 else None))
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
    check(config)
    # on the CPU: the memory of the GPUs is for the processes
    Experiment(config, None, "cpu")
    if config["resume"]:
        _folder(config)


def _folder(config: Mapping[str, Any]) -> RunFolder:
    if not config["resume"]:
        return RunFolder.create(config)
    folder = RunFolder.find(config["resume"])
    folder.require_same(config)
    return folder


def _run(experiment: Experiment, folder: RunFolder, console: Console) -> dict[str, Any]:
    config, tic = experiment.config, perf_counter()
    experiment.into(folder)
    console.print(f"run folder {folder.path}")
    print_plan(experiment, measure_stages(experiment), console)

    timer = _timer(console)
    fitted: dict[str, Fitted] = {}
    stream = experiment.stream()
    with timer("thermalise"):
        experiment.thermalised()
    # a run that was killed after its training does not need the trajectories again
    if any(not folder.weights(name).exists() for name in experiment.trained):
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
    results: dict[str, SamplingResult] = {}
    for name in experiment.rows:
        with timer(f"sample {name}"):
            results[name] = experiment.sample(name)

    if experiment.rank != 0:
        return {}
    summary = _summary(experiment, fitted, losses, results)
    write_summary(folder.summary, summary)
    histories = {name: _arrays(result) for name, result in results.items()}
    save_histories(folder.path / "histories.npz", histories)
    metrics = read_metrics(folder.metrics) if folder.metrics.exists() else []
    write_report(folder.report, summary, metrics, histories)
    if not config["stream"]["keep"]:
        shutil.rmtree(folder.path / "stream", ignore_errors=True)
    console.print(summary_table(summary))
    for doubt in doubts(summary):
        console.print(f"! {doubt}", highlight=False)
    if config["publish"]:
        published = publish(Path(config["publish"]), folder, summary, config)
        console.print(f"published in {published}")
    console.print(f"done in {clock(perf_counter() - tic)}; report: {folder.report}")
    return summary


def _summary(
    experiment: Experiment,
    fitted: Mapping[str, Fitted],
    losses: Mapping[str, Any],
    results: Mapping[str, SamplingResult],
) -> dict[str, Any]:
    rows, observables = {}, {}
    for name, row in experiment.rows.items():
        method = experiment.methods.get(name)
        observables[name] = estimates(results[name])
        reversal = experiment.reversal_errors.get(name)
        rows[name] = row_summary(
            row["sampler"], method, fitted.get(name), results[name], observables[name], reversal,
            learned=is_trained(row) or bool(row.get("checkpoint")),
        )
        if name in losses:
            rows[name]["held_out"] = held_out_entry(name, losses, _baseline(experiment, name))
    reference = next((n for n, r in experiment.rows.items() if r["sampler"] == "hmc"), None)
    return summarise(experiment.config, experiment.system.device, rows, observables, reference)


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


def save_histories(path: Path, histories: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``{row: {name: [chains, steps]}}`` as histories.npz."""
    flat = {f"{row}/{name}": a for row, h in histories.items() for name, a in h.items()}
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **flat)
    partial.replace(path)


def load_histories(path: Path) -> dict[str, dict[str, Any]]:
    """Histories of a run, ``{row: {name: [chains, steps]}}``."""
    histories: dict[str, dict[str, Any]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            row, _, name = key.partition("/")
            histories.setdefault(row, {})[name] = stored[key]
    return histories


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
