"""Fitting one row with Lightning, resumable at epoch ends."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor

from lattice_lightning.callbacks import ExactSampling, MetricsCsv, read_metrics
from lattice_lightning.data import PairStream, TrajectoryData
from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.processes import n_nodes
from lattice_lightning.pipeline.weights import load_weights, save_weights
from lattice_lightning.seeds import derive_seed

__all__ = ["Fitted", "check_trainer", "fit_flow", "fit_row", "quiet_lightning"]

Method = ActionRegression | FlowMethod


#: of a network's weights and arithmetic; links, solves and the accept step are always in double
PRECISIONS = ("64-true", "32-true")


@dataclass(frozen=True)
class Fitted:
    """What training a row took.

    Attributes:
        steps: optimizer steps.
        seconds: of training, over all sessions.
        stream_seconds: of HMC for the distinct trajectories that it used, shared with other rows.
        loss_first: mean loss of the first epoch.
        loss_last: mean loss of the last epoch.
    """

    steps: int
    seconds: float
    stream_seconds: float
    loss_first: float | None
    loss_last: float | None

    def as_dict(self) -> dict[str, Any]:
        """The entry ``training`` of summary.json."""
        loss = {"first": self.loss_first, "last": self.loss_last}
        return {
            "steps": self.steps, "seconds": self.seconds, "stream_seconds": self.stream_seconds,
            "loss": loss,
        }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice that contradicts ours (no workers, so that resuming is bitwise)."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*LeafSpec.*",
            ".*GPU available but not used.*",
            ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
            ".*You're resuming from a checkpoint that ended.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        logger = logging.getLogger("pytorch_lightning")
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


def check_trainer(config: Mapping[str, Any]) -> None:
    """Refuse a trainer config that Lightning would refuse after the stream.

    Raises:
        InputError: with Lightning's reason.
    """
    options = {key: config["trainer"][key] for key in ("accelerator", "devices", "strategy", "precision")}
    if str(options["precision"]) not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InputError(f"trainer.precision must be one of {known}, got {options['precision']}")
    with quiet_lightning(), explained(f"trainer {options}"):
        Trainer(
            **options, num_nodes=n_nodes(), logger=False, enable_checkpointing=False,
            enable_progress_bar=False,
        )


class _Clock(Callback):
    """Training seconds over all sessions of a run, kept in the checkpoint."""

    def __init__(self) -> None:
        self.before, self.tic = 0.0, perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + perf_counter() - self.tic

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["seconds"])


class _Narrator(Callback):
    """One line an epoch where a progress bar would be lost (logs of batch jobs)."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shown = {k: float(v) for k, v in trainer.callback_metrics.items()}
        text = ", ".join(f"{k.split('/')[-1]} {v:.4g}" for k, v in shown.items())
        if trainer.is_global_zero:
            print(f"  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {text}", flush=True)


def _resume_epoch(path: Path) -> int:
    """Epoch that a Lightning checkpoint goes on with."""
    payload = load_weights(path)
    try:
        return int(payload["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except KeyError as error:
        raise ResumeError(f"{path} has no epoch count; delete it to train anew") from error


def fit_row(
    name: str,
    row: Mapping[str, Any],
    method: ActionRegression,
    system: System,
    stream: PairStream,
    folder: RunFolder,
    config: Mapping[str, Any],
    start: Callable[[], Tensor],
    loggers: list[Logger] | None = None,
) -> Fitted:
    """Train one row on the shared stream, from its last checkpoint where there is one.

    Args:
        name: row name.
        row: expanded row.
        method: the module, trained in place.
        system: what is sampled.
        stream: trajectories, shared by all rows.
        folder: of the run.
        config: the whole plain config.
        start: field that the short sampling runs start from.
        loggers: loggers beside metrics.csv.

    Raises:
        ResumeError: when a checkpoint cannot be gone on from.
    """
    weights = folder.weights(name)
    if weights.exists():
        return _read(name, method, folder)
    short = config["short_sampling"]
    sampling = ExactSampling(
        system.target, start, dict(system.integrator(row)), short["every_n_epochs"],
        short["n_trajectories"],
        seed=config["seed"] + 77_000,
    )
    training = row["training"]
    data = TrajectoryData(
        stream, training["trajectories_per_epoch"], config["stream"]["n_trajectories"]
    )
    trainer, seconds = _fit(
        name, method, system, folder, config, training["epochs"], sampling, loggers, data,
        precision=config["trainer"]["precision"],
        gradient_clip_val=training["gradient_clip"] if method.automatic_optimization else None,
    )
    steps = int(trainer.global_step)
    distinct = min(steps, config["stream"]["n_trajectories"])
    method.origin = {
        **method.origin, "steps": steps, "seconds": seconds, "stream_seconds": stream.seconds(distinct),
    }
    if trainer.is_global_zero:
        save_weights(weights, method)
    return _fitted(folder, name, method.origin)


def fit_flow(
    name: str,
    method: FlowMethod,
    system: System,
    folder: RunFolder,
    config: Mapping[str, Any],
    loggers: list[Logger] | None = None,
) -> Fitted:
    """Train the flow of one row on its own draws, from its last checkpoint where there is one.

    Args:
        name: row name.
        method: the module, trained in place.
        system: what is sampled.
        folder: of the run.
        config: the whole plain config.
        loggers: loggers beside metrics.csv.

    Raises:
        ResumeError: when a checkpoint cannot be gone on from.
    """
    weights = folder.weights(name)
    if weights.exists():
        return _read(name, method, folder)
    from lattice_lightning.callbacks.importance_sampling import ImportanceSampling

    beside = config["importance"]["beside_training"]
    weighing = ImportanceSampling(
        n=beside["n"], every_n_epochs=beside["every_n_epochs"],
        batch_size=config["importance"]["batch_size"], seed=derive_seed(config["seed"], "beside", name),
    )
    # 32-true leaves a module as it is: a flow knows the precision of its weights and of its draws
    trainer, seconds = _fit(
        name, method, system, folder, config, method.n_epochs, weighing, loggers, precision="32-true"
    )
    method.origin = {**method.origin, "steps": int(trainer.global_step), "seconds": seconds}
    if trainer.is_global_zero:
        save_weights(weights, method)
    return _fitted(folder, name, method.origin)


def _read(name: str, method: Method, folder: RunFolder) -> Fitted:
    payload = load_weights(folder.weights(name))
    method.load_state_dict(payload["state_dict"])
    method.origin = payload["origin"]
    return _fitted(folder, name, payload["origin"])


def _fit(
    name: str,
    method: Method,
    system: System,
    folder: RunFolder,
    config: Mapping[str, Any],
    n_epochs: int,
    beside: Callback,
    loggers: list[Logger] | None,
    data: TrajectoryData | None = None,
    **options: Any,
) -> tuple[Trainer, float]:
    """Fit, resumably at epoch ends; the trainer and the seconds of all sessions."""
    last, trainer_config = folder.checkpoint(name), config["trainer"]
    resume = last if last.exists() else None
    csv = MetricsCsv(folder.metrics, name, _resume_epoch(last) if resume else 0)
    clock = _Clock()
    saver = ModelCheckpoint(
        last.parent, filename="last", every_n_epochs=1, save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    bar: Callback = RichProgressBar(leave=False) if _is_terminal() else _Narrator()
    with quiet_lightning():
        trainer = Trainer(
            accelerator=trainer_config["accelerator"],
            devices=trainer_config["devices"],
            num_nodes=n_nodes(),
            strategy=trainer_config["strategy"],
            max_epochs=n_epochs,
            logger=[csv, *(loggers or [])],
            callbacks=[clock, beside, bar, saver],
            inference_mode=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            enable_progress_bar=_is_terminal(),
            enable_model_summary=False,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            default_root_dir=str(folder.path),
            **options,
        )
        trainer.fit(method, data, ckpt_path=str(resume) if resume else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    # Lightning moves the module back to the CPU when it tears down
    method.to(system.device)
    return trainer, clock.seconds


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()


def _fitted(folder: RunFolder, name: str, origin: Mapping[str, Any]) -> Fitted:
    """Training figures with the mean loss of the first and last epoch, from metrics.csv."""
    losses: dict[int, list[float]] = {}
    if folder.metrics.exists():
        for entry in read_metrics(folder.metrics):
            if entry["row"] == name and entry["metric"] == "loss":
                losses.setdefault(entry["epoch"], []).append(entry["value"])
    means = [sum(losses[e]) / len(losses[e]) for e in sorted(losses)]
    first, last = (means[0], means[-1]) if means else (None, None)
    finite = [None if m is None or not math.isfinite(m) else m for m in (first, last)]
    return Fitted(
        int(origin["steps"]), float(origin["seconds"]), float(origin.get("stream_seconds", 0.0)), *finite
    )
