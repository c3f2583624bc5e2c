"""Markov kernels: init, propose, one accept, step.

A kernel proposes a :class:`Trajectory`; :func:`accept` is the only accept/reject of the package.
State is what the next step needs, Info only diagnostics. Momenta and auxiliary fields never outlive
a step.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

#: deviation from the group that rounding may have caused
MAX_DEFECT = 1e-6

__all__ = ["Info", "Kernel", "State", "Trajectory", "accept"]


@dataclass(frozen=True)
class State:
    """Where the chains are.

    Attributes:
        field: always the physical field, ``[batch, ...]``.
        cache: what else the kernel's next step needs, ``[batch, ...]`` each by name (a log weight, a
            latent field); saved and resumed with the chain.
    """

    field: Tensor
    cache: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """A proposal for every chain, accepted or not.

    Attributes:
        start: field at the start.
        end: field at the end (nan where molecular dynamics failed).
        aux: auxiliary fields, drawn at the start and held fixed.
        action_start: target action at the start, ``[batch]``.
        action_end: target action at the end, with the same aux.
        delta_H: what the accept step sees, ``[batch]``.
        iterations: solver iterations for each chain by purpose (``md``, ``accept``).
        cache_start: what the kernel's state keeps beside the field if the proposal is rejected.
        cache_end: the same, by the same names, if it is accepted.
    """

    start: Tensor
    end: Tensor
    aux: Mapping[str, Tensor]
    action_start: Tensor
    action_end: Tensor
    delta_H: Tensor
    iterations: Mapping[str, Tensor] = field(default_factory=dict)
    cache_start: Mapping[str, Tensor] = field(default_factory=dict)
    cache_end: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Info:
    """Diagnostics of one step for each chain.

    Attributes:
        accepted: whether the proposal was taken.
        delta_H: energy change; not finite means rejected.
        iterations: solver iterations by purpose.
    """

    accepted: Tensor
    delta_H: Tensor
    iterations: Mapping[str, Tensor]


def accept(trajectory: Trajectory, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Metropolis step with probability min(1, exp(-delta_H)) for every chain.

    A chain whose delta_H is not finite is rejected. One uniform number a chain is drawn in any case,
    so that the stream of random numbers does not depend on the outcome.

    Returns:
        The field after the step and whether each proposal was accepted, ``[batch]``.
    """
    delta = trajectory.delta_H
    uniform = torch.rand(delta.shape, generator=rng, dtype=delta.dtype, device=delta.device)
    accepted = torch.isfinite(delta) & (uniform < torch.exp(-delta))
    return _select(accepted, trajectory.end, trajectory.start), accepted


def _select(accepted: Tensor, end: Tensor, start: Tensor) -> Tensor:
    return torch.where(accepted.reshape(-1, *[1] * (end.ndim - 1)), end, start)


class Kernel(ABC):
    """A Markov kernel that leaves exp(-S) of its target invariant.

    Example:
        A random-walk Metropolis kernel is a dozen lines:

        >>> from lattice_lightning.actions import Action, Phi4
        >>> class RandomWalk(Kernel):
        ...     name = "metropolis"
        ...     def __init__(self, target: Action, width: float) -> None:
        ...         self.target, self.width = target, width
        ...         self.lattice, self.space = target.lattice, target.space
        ...     def propose(self, rng, state):
        ...         end = state.field + self.width * self.space.momentum(state.field, rng)
        ...         before = self.target.value(state.field, {})
        ...         after = self.target.value(end, {})
        ...         return Trajectory(state.field, end, {}, before, after, after - before)
        >>> kernel = RandomWalk(Phi4(Lattice((4, 4)), m2=1.0, lam=1.0), width=0.1)
        >>> rng = torch.Generator().manual_seed(1)
        >>> state = kernel.init(torch.zeros(8, 4, 4, dtype=torch.float64), rng)
        >>> state, info = kernel.step(rng, state)
        >>> info.accepted.shape
        torch.Size([8])
    """

    name: str
    lattice: Lattice
    space: FieldSpace

    def init(self, field: Tensor, rng: torch.Generator) -> State:
        """The state of chains that start from a field.

        Raises:
            InputError: when the field has another layout, or is not on the group.
        """
        self.check_start(field)
        return self.at(field.clone())

    def at(self, field: Tensor) -> State:
        """The state at a field that another kernel made, with what is kept beside it computed anew."""
        return State(field)

    def check_start(self, field: Tensor) -> None:
        """Raise InputError unless the field has the kernel's layout and is on the group."""
        self.space.check_field(field, self.lattice)
        defect = self.space.defect(field)
        if not bool((defect <= MAX_DEFECT).all()):
            worst = int(torch.nan_to_num(defect, nan=float("inf")).argmax())
            raise InputError(
                f"chain {worst} of the start is not in {self.space.name}: off by "
                f"{float(defect[worst]):.1e}, allowed {MAX_DEFECT:.0e}; reunitarise it, or check its source"
            )

    @abstractmethod
    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """One proposal for every chain."""

    def step(self, rng: torch.Generator, state: State) -> tuple[State, Info]:
        """Propose and accept."""
        trajectory = self.propose(rng, state)
        return self.decide(rng, trajectory)

    def decide(self, rng: torch.Generator, trajectory: Trajectory) -> tuple[State, Info]:
        """Accept or reject a trajectory; links are reunitarised here and never inside one."""
        field, accepted = accept(trajectory, rng)
        info = Info(accepted, trajectory.delta_H, trajectory.iterations)
        start = trajectory.cache_start
        cache = {k: _select(accepted, end, start[k]) for k, end in trajectory.cache_end.items()}
        return State(self.space.reunitarise(field), cache), info
