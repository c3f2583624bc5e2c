"""The chain loop: the only one, used by datamodule, callback and command line alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lattice_lightning.exceptions import ChainError, InputError, ResumeError
from lattice_lightning.files import save_atomically
from lattice_lightning.observables import Observable
from lattice_lightning.samplers.kernel import Info, Kernel, State

__all__ = ["ChainCheckpoint", "FailureCount", "History", "run"]

DIAGNOSTICS = ("accepted", "delta_H")
FAILURE_FRACTION = 0.01
FAILURES_TOLERATED = 4
FAILURES_IN_A_ROW = 10


@dataclass
class History:
    """What a run recorded, ``[chains, steps]`` by name.

    Diagnostics (``accepted``, ``delta_H``, ``iterations_md``, ``iterations_accept``) have one entry
    a trajectory, observables one entry a measurement.
    """

    series: dict[str, list[Tensor]] = field(default_factory=dict)

    def append(self, values: dict[str, Tensor]) -> None:
        """Add one column to every series named."""
        for name, value in values.items():
            self.series.setdefault(name, []).append(value.detach().to("cpu", torch.float64))

    def __getitem__(self, name: str) -> Tensor:
        """Series ``[chains, steps]``."""
        return torch.stack(self.series[name], 1)

    def __contains__(self, name: str) -> bool:
        """Whether the series exists."""
        return name in self.series

    def as_dict(self) -> dict[str, Tensor]:
        """All series."""
        return {name: self[name] for name in self.series}

    @property
    def observables(self) -> dict[str, Tensor]:
        """Series that are not diagnostics."""
        names = [n for n in self.series if n not in DIAGNOSTICS and not n.startswith("iterations")]
        return {name: self[name] for name in names}


@dataclass(frozen=True)
class ChainCheckpoint:
    """Where and how often a run saves itself.

    Args:
        path: file, replaced atomically.
        every: trajectories between saves.
    """

    path: Path
    every: int = 10

    def __post_init__(self) -> None:
        """Refuse an interval below one."""
        if self.every < 1:
            raise InputError(f"a chain saves itself every n >= 1 steps, got every={self.every}")

    def save(
        self, state: State, step: int, rngs: Sequence[torch.Generator], history: History
    ) -> None:
        """Write, flush to disk, rename."""
        payload = {
            "step": step,
            "field": state.field,
            "cache": dict(state.cache),
            "rng": [rng.get_state() for rng in rngs],
            "history": history.as_dict(),
        }
        save_atomically(self.path, payload)

    def load(
        self, rngs: Sequence[torch.Generator], shape: torch.Size
    ) -> tuple[State, int, History] | None:
        """The saved run, with the generators set; None when there is none.

        Raises:
            ResumeError: when the file belongs to another run or is damaged.
        """
        if not self.path.exists():
            return None
        try:
            # torch.load does not compare checksums
            with ZipFile(self.path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} has the wrong checksum")
            payload = torch.load(self.path, weights_only=True, map_location=rngs[0].device)
        except Exception as error:
            raise ResumeError(
                f"cannot read {self.path} ({type(error).__name__}); delete it to start anew"
            ) from error
        if missing := {"step", "field", "rng", "history"} - set(payload):
            raise ResumeError(f"{self.path} has no {sorted(missing)}: it is no saved chain")
        if payload["field"].shape != shape:
            raise ResumeError(
                f"{self.path} holds chains of shape {list(payload['field'].shape)}, this run has "
                f"{list(shape)}; use another folder or the old settings"
            )
        for rng, saved in zip(rngs, payload["rng"], strict=True):
            rng.set_state(saved.cpu())
        series = {name: list(t.unbind(1)) for name, t in payload["history"].items()}
        # files of earlier versions have no cache
        state = State(payload["field"], payload.get("cache", {}))
        return state, int(payload["step"]), History(series)


class FailureCount:
    """Counts trajectories without a finite delta_H and raises when they persist.

    A few are rejected and go on; more than 1 % of all, or ten in a row of one chain (which a large
    batch would hide), are an error.
    """

    def __init__(self) -> None:
        self.failed, self.total = 0, 0
        self._in_a_row: Tensor | None = None

    def add(self, delta_H: Tensor, step: int) -> None:
        """Count the trajectories of all chains.

        Raises:
            ChainError: when failures persist.
        """
        bad = ~torch.isfinite(delta_H)
        self.total += bad.numel()
        self.failed += int(bad.sum())
        before = torch.zeros_like(bad, dtype=torch.int64) if self._in_a_row is None else self._in_a_row
        self._in_a_row = torch.where(bad, before + 1, 0)
        if bool((self._in_a_row >= FAILURES_IN_A_ROW).any()):
            stuck = (self._in_a_row >= FAILURES_IN_A_ROW).nonzero().flatten().tolist()
            raise ChainError(
                f"chains {stuck}: the last {FAILURES_IN_A_ROW} trajectories ended with a delta_H that is "
                f"not finite (at step {step}); start them elsewhere, use more integrator steps or more "
                "max_iterations"
            )
        if self.failed > FAILURES_TOLERATED and self.failed > FAILURE_FRACTION * self.total:
            chains = bad.nonzero().flatten().tolist()
            raise ChainError(
                f"{self.failed} of {self.total} trajectories ended with a delta_H that is not finite "
                f"(last at step {step}, chains {chains}); they were rejected, but more than "
                f"{FAILURE_FRACTION:.0%} means that molecular dynamics diverges or its solver does "
                "not converge: use more integrator steps, a shorter trajectory or more max_iterations"
            )


def run(
    kernel: Kernel,
    state: State,
    n: int,
    rng: torch.Generator,
    observables: Sequence[Observable] = (),
    *,
    measure_every: int = 1,
    measure_rng: torch.Generator | None = None,
    on_step: Callable[[int, State, Info], None] | None = None,
    checkpoint: ChainCheckpoint | None = None,
    progress: str | None = None,
) -> tuple[State, History]:
    """Advance all chains by n steps and record what they do.

    Args:
        kernel: Markov kernel.
        state: where the chains are.
        n: number of steps; with a checkpoint, of the whole run including what it holds already.
        rng: generator of the chain, advanced in place.
        observables: measured after every ``measure_every``-th step.
        measure_every: thinning of the measurements.
        measure_rng: generator of the measurements; by default one seeded from a copy of ``rng``, so
            that measuring does not change the chain.
        on_step: called after every step with (step, state, info), for writers and streams.
        checkpoint: save and resume here; a resumed run equals the uninterrupted one bit for bit on
            the CPU.
        progress: label of a progress bar with running estimates; None for none.

    Returns:
        The last state and the :class:`History`.

    Raises:
        InputError: for a negative n or thinning below one.
        ChainError: when more than 1 % of the trajectories have no finite delta_H.
        ResumeError: when the checkpoint belongs to another run.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.observables import ScalarMoments
        >>> from lattice_lightning.samplers import HMC
        >>> lattice = Lattice((4, 4))
        >>> kernel = HMC(Phi4(lattice, m2=1.0, lam=1.0))
        >>> rng = torch.Generator().manual_seed(1)
        >>> state = kernel.init(torch.zeros(8, 4, 4, dtype=torch.float64), rng)
        >>> state, history = run(kernel, state, 10, rng, [ScalarMoments(lattice)])
        >>> history["phi2"].shape
        torch.Size([8, 10])
    """
    if n < 0 or measure_every < 1:
        raise InputError(f"expected n >= 0 and measure_every >= 1, got {n}, {measure_every}")
    if measure_rng is None:
        measure_rng = torch.Generator(rng.device)
        measure_rng.manual_seed(rng.initial_seed() ^ 0x5DEECE66D)
    history, first = History(), 0
    if checkpoint is not None:
        loaded = checkpoint.load([rng, measure_rng], state.field.shape)
        if loaded is not None:
            state, first, history = loaded
    failures = FailureCount()
    for past, column in enumerate(history.series.get("delta_H", [])):
        failures.add(column, past)
    for step in _bar(range(first, n), n, progress, history):
        state, info = kernel.step(rng, state)
        failures.add(info.delta_H.cpu(), step)
        history.append({"accepted": info.accepted, "delta_H": info.delta_H})
        history.append({f"iterations_{name}": count for name, count in info.iterations.items()})
        if (step + 1) % measure_every == 0:
            for observable in observables:
                history.append(observable.measure(state.field, measure_rng))
        if on_step is not None:
            on_step(step, state, info)
        if checkpoint is not None and ((step + 1) % checkpoint.every == 0 or step + 1 == n):
            checkpoint.save(state, step + 1, [rng, measure_rng], history)
    return state, history


def _bar(steps: range, n: int, label: str | None, history: History) -> Iterator[int]:
    if label is None:
        yield from steps
        return
    with tqdm(total=n, initial=n - len(steps), desc=label, leave=False, disable=None) as bar:
        for step in steps:
            yield step
            shown = {}
            recent = history.series.get("accepted", [])[-50:]
            if recent:
                shown["acceptance"] = f"{float(torch.stack(recent).mean()):.2f}"
            if "plaquette" in history.series:
                recent = history.series["plaquette"][-50:]
                shown["plaquette"] = f"{float(torch.stack(recent).mean()):.4f}"
            bar.set_postfix(shown, refresh=False)
            bar.update()
