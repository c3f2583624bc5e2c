"""Exact sampling with a model in training: short runs at epoch ends, a long one after the fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lattice_lightning.actions import Action
from lattice_lightning.data import EnsembleWriter
from lattice_lightning.metrics import AcceptanceProbability
from lattice_lightning.observables import Observable
from lattice_lightning.samplers import ChainCheckpoint, History, Kernel, State, run

__all__ = ["ExactSampling", "SamplingPlan", "SamplingResult", "sample_exactly"]


@dataclass(frozen=True)
class SamplingPlan:
    """How long to sample.

    Args:
        n_thermalise: steps discarded first, with the frozen kernel.
        n_steps: steps recorded.
        measure_every: thinning of the observables.
        checkpoint_every: steps between saves, where a path is given.
    """

    n_thermalise: int
    n_steps: int
    measure_every: int = 1
    checkpoint_every: int = 10


@dataclass(frozen=True)
class SamplingResult:
    """What a run of exact sampling leaves: the history, the last fields, its time in seconds."""

    history: History
    state: State
    seconds: float


def sample_exactly(
    kernel: Kernel,
    start: Tensor,
    plan: SamplingPlan,
    observables: Sequence[Observable],
    seed: int,
    checkpoint: Path | None = None,
    progress: str | None = None,
    writer: EnsembleWriter | None = None,
    save_every: int = 1,
) -> SamplingResult:
    """Thermalise with the frozen kernel, discard, sample; resumable where a path is given.

    Args:
        kernel: its parameters must not change any more.
        start: field that the chains start from, ``[chains, ...]``.
        plan: how long.
        observables: what to measure.
        seed: of the chain; measurements draw from another generator.
        checkpoint: file that the run saves itself in and goes on from.
        progress: label of the progress bar; None for none.
        writer: ensemble that keeps every ``save_every``-th field.
        save_every: see writer.

    Returns:
        History, last state and wall time without thermalisation (of all sessions of a resumed run).
    """
    rng, measure_rng = torch.Generator(start.device), torch.Generator(start.device)
    rng.manual_seed(seed)
    measure_rng.manual_seed(seed + 1)
    state = kernel.init(start, rng)
    before = _elapsed(checkpoint)
    tic = perf_counter()

    def after_step(step: int, state: State, info: Any) -> None:
        if writer is not None and (step + 1) % save_every == 0:
            writer.append(state.field, step, [rng.get_state(), measure_rng.get_state()])
        if checkpoint is not None and (step + 1) % plan.checkpoint_every == 0:
            checkpoint.with_suffix(".seconds").write_text(str(before + perf_counter() - tic))

    first = last = None
    if checkpoint is not None:
        first = ChainCheckpoint(checkpoint.with_suffix(".thermal.pt"), plan.checkpoint_every)
        last = ChainCheckpoint(checkpoint, plan.checkpoint_every)
    if last is not None and last.path.exists():
        # the chains are beyond thermalisation: its generator state must not be taken
        first = None
        plan = replace(plan, n_thermalise=0)
    label = f"{progress}, thermalising" if progress else None
    state, _ = run(
        kernel, state, plan.n_thermalise, rng, checkpoint=first, measure_rng=measure_rng,
        progress=label,
    )
    tic = perf_counter()
    state, history = run(
        kernel, state, plan.n_steps, rng, observables, measure_every=plan.measure_every,
        measure_rng=measure_rng, on_step=after_step, checkpoint=last, progress=progress,
    )
    seconds = before + perf_counter() - tic
    if checkpoint is not None:
        checkpoint.with_suffix(".seconds").write_text(str(seconds))
    return SamplingResult(history, state, seconds)


def _elapsed(checkpoint: Path | None) -> float:
    path = checkpoint.with_suffix(".seconds") if checkpoint is not None else None
    return float(path.read_text()) if path is not None and path.exists() else 0.0


class ExactSampling(Callback):
    """Samples the target exactly with the module's kernel and logs what it costs.

    Short runs at epoch ends start from ``start`` and log ``acceptance`` (mean Metropolis
    probability); the long one after the fit has frozen parameters and a fresh thermalisation. Its
    result stands in ``result``.

    Args:
        target: the action sampled.
        start: makes the field that a run starts from.
        kernel_options: trajectory length, levels, ...
        every_n_epochs: interval of the short runs.
        n_short: trajectories of a short run.
        long: plan of the run after the fit; None for none.
        observables: measured in the long run.
        seed: seed of the sampling chains, not shared with training.
    """

    def __init__(
        self,
        target: Action,
        start: Callable[[], Tensor],
        kernel_options: dict[str, Any] | None = None,
        every_n_epochs: int = 1,
        n_short: int = 2,
        long: SamplingPlan | None = None,
        observables: Sequence[Observable] = (),
        seed: int = 0,
    ) -> None:
        self.target, self.start, self.kernel_options = target, start, kernel_options or {}
        self.every_n_epochs, self.n_short, self.long = every_n_epochs, n_short, long
        self.observables, self.seed = observables, seed
        self.result: SamplingResult | None = None

    def _kernel(self, module: LightningModule) -> Kernel:
        kernel: Kernel = module.kernel(self.target, **self.kernel_options)  # type: ignore[operator]
        return kernel

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Short run; the same random numbers every time, so that the curve shows training."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if self.n_short < 1 or ((trainer.current_epoch + 1) % self.every_n_epochs and not last):
            return
        field = self.start()
        rng = torch.Generator(field.device)
        rng.manual_seed(self.seed + trainer.global_rank)
        kernel = self._kernel(pl_module)
        _, history = run(kernel, kernel.init(field, rng), self.n_short, rng)
        metric = AcceptanceProbability().to(field.device)
        metric.update(history["delta_H"].to(field.device))
        label = getattr(pl_module, "label", "")
        # the metric has summed over processes already, so that Lightning's mean changes nothing
        pl_module.log(f"{label}acceptance", metric.compute(), sync_dist=True, batch_size=1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Long run with frozen parameters."""
        if self.long is not None:
            self.result = sample_exactly(
                self._kernel(pl_module), self.start(), self.long, self.observables,
                self.seed + 1000 * (trainer.global_rank + 1),
            )
