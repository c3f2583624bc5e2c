"""Direct draws of a flow (or of annealing) and their weights: effective sample size and log Z.

The effective sample size of few draws is biased up: a batch of 64 of a poor flow shows 0.4 where
10^4 draws show 0.24. So it is quoted from draws of its own, not from training.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from lattice_lightning.files import save_atomically
from lattice_lightning.models import ContinuousFlow, FlowModel, step_halving
from lattice_lightning.parallel import joined
from lattice_lightning.pipeline.build import System
from lattice_lightning.samplers import WeightedProposal

__all__ = ["Draws", "draw_weights", "halving"]

SAVE_EVERY = 20.0


@dataclass(frozen=True)
class Draws:
    """What direct draws found.

    Attributes:
        log_weights: ``[n]``, over all ranks.
        seconds: that they took.
        halving: of a continuous flow, how much log q, log w and log Z change when its integration steps
            are halved, see :class:`.StepHalving`, and of how many draws.
    """

    log_weights: Tensor
    seconds: float
    halving: dict[str, Any] | None = None


@torch.no_grad()
def halving(
    system: System, model: FlowModel | None, n: int, seed: int, batch_size: int
) -> dict[str, Any] | None:
    """What halving the integration steps of a continuous flow changes; None for other flows."""
    if model is None or not any(isinstance(m, ContinuousFlow) for m in model.modules()):
        return None
    rng = torch.Generator(system.device)
    rng.manual_seed(seed)
    return {"n": n, **step_halving(model, n, rng, system.target, batch_size)._asdict()}


def draw_weights(
    proposal: WeightedProposal,
    n: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    path: Path,
    progress: str | None = None,
) -> Draws:
    """Draw n fields on this rank and keep their log weights; those of a finished stage are read.

    A killed stage goes on from its last save, some ``SAVE_EVERY`` seconds before, with the same draws.

    Args:
        proposal: of the draws.
        n: number of fields.
        batch_size: fields at a time.
        seed: of the draws.
        device: of the generator.
        path: file of the log weights.
        progress: label of the progress bar; None for none.
    """
    if path.exists():
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        return _gathered(stored["log_weights"], float(stored["seconds"]))
    rng = torch.Generator(device)
    rng.manual_seed(seed)
    found, before, partial = [], 0.0, path.with_suffix(".part")
    if partial.exists():
        stored = torch.load(partial, weights_only=True)
        found, before = list(stored["log_weights"]), float(stored["seconds"])
        rng.set_state(stored["rng"])
    tic = saved = perf_counter()
    sizes = [min(batch_size, n - first) for first in range(0, n, batch_size)][len(found):]
    for size in tqdm(sizes, desc=f"{progress}, weights", leave=False, disable=progress is None or None):
        found.append(proposal.sample(size, rng)[1].detach().double().cpu())
        if perf_counter() - saved > SAVE_EVERY:
            saved = perf_counter()
            seconds = before + saved - tic
            save_atomically(partial, {"log_weights": found, "seconds": seconds, "rng": rng.get_state()})
    log_weights, seconds = torch.cat(found), before + perf_counter() - tic
    save_atomically(path, {"log_weights": log_weights, "seconds": seconds})
    partial.unlink(missing_ok=True)
    return _gathered(log_weights, seconds)


def _gathered(log_weights: Tensor, seconds: float) -> Draws:
    if not joined():
        return Draws(log_weights, seconds)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (log_weights, seconds))
    return Draws(torch.cat([part for part, _ in parts]), max(s for _, s in parts))
