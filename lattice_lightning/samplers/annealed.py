"""Annealed importance sampling: out of equilibrium from a prior to the target, with exact weights.

Jarzynski's equality (cond-mat/9610209) as a sampler (physics/9803008, 2201.08862); with flow layers
between the steps, a stochastic normalizing flow.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from lattice_lightning.actions import Action
from lattice_lightning.actions.scaled import MixedAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers.chain import FailureCount
from lattice_lightning.samplers.hmc import HMC
from lattice_lightning.samplers.integrators import Level
from lattice_lightning.samplers.kernel import Kernel

__all__ = ["AnnealedImportanceSampling", "AnnealingPrior"]

KernelFactory = Callable[[Action], Kernel]


class AnnealingPrior(Protocol):
    """A density with its action, as a Prior."""

    lattice: Lattice
    space: FieldSpace

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields."""
        ...

    def log_prob(self, field: Tensor) -> Tensor:
        """Normalised log density, ``[batch]``."""
        ...

    def action(self) -> Action:
        """S_0 with log_prob = -S_0 - log Z_0."""
        ...


class AnnealedImportanceSampling:
    """Fields taken from a prior to the target in n steps, weighted by the work done on them.

    With S_t = (1 - c_t) S_0 + c_t S, c_0 = 0 and c_n = 1, a draw x_0 of the prior is taken through
    steps t = 0 ... n-1: the layer f_t (none: the identity) maps it to y = f_t(x_t), its log weight
    changes by S_t(x_t) - S_{t+1}(y) + log |det f_t|, and a Markov kernel that leaves exp(-S_{t+1})
    invariant moves y to x_{t+1}. The weight is that of the path, exact for any kernel and layer, and
    E[w] = Z of the target in the measure of the prior's density. A field alone does not determine
    its weight, so :meth:`log_weight` knows none; independence Metropolis is exact on the space of
    paths.

    Args:
        prior: where the paths start.
        target: the action S, without pseudofermions.
        n_steps: number n of steps.
        trajectory_length: of HMC, the kernel of every step unless ``kernel`` is given.
        levels: of HMC; terms ``prior`` and ``target`` may have time scales of their own.
        random_length: of HMC.
        kernel: makes the kernel of an action S_{t+1} instead.
        kernel_steps: kernel steps after each change of the action.
        schedule: c_1 ... c_n, not decreasing, the last one 1; equal steps when None.
        layers: invertible maps, one a step, each ``field -> (field, log_det)``; their parameters are
            not trained here.
        batch_size: paths run at once; None for all.

    Attributes:
        force_evaluations: forces of the target evaluated for each path of the latest draw.
        acceptance: acceptance rate of each step's kernel in the latest draw, ``[n_steps]``.

    Raises:
        InputError: for another schedule or number of layers, or fields that do not agree.
        ChainError: while it draws, when trajectories without a finite delta_H persist (the weight stays
            exact, but nothing moves).
    """

    def __init__(
        self,
        prior: AnnealingPrior,
        target: Action,
        n_steps: int,
        trajectory_length: float = 1.0,
        levels: int | Sequence[Level] = 5,
        random_length: bool = False,
        kernel: KernelFactory | None = None,
        kernel_steps: int = 1,
        schedule: Sequence[float] | None = None,
        layers: Sequence[nn.Module] | None = None,
        batch_size: int | None = None,
    ) -> None:
        if n_steps < 1 or kernel_steps < 1 or (batch_size is not None and batch_size < 1):
            raise InputError(
                f"annealing needs n_steps, kernel_steps and batch_size of at least 1, got {n_steps}, "
                f"{kernel_steps}, {batch_size}"
            )
        if prior.lattice != target.lattice or prior.space.name != target.space.name:
            raise InputError(
                f"a prior on {prior.space.name}, lattice {prior.lattice.shape}, cannot be annealed to a "
                f"target on {target.space.name}, lattice {target.lattice.shape}"
            )
        if layers is not None and len(layers) != n_steps:
            raise InputError(f"annealing in {n_steps} steps takes as many layers, got {len(layers)}")
        self.prior, self.target, self.layers = prior, target, layers
        self.lattice, self.space = target.lattice, target.space
        self.kernel_steps, self.batch_size = kernel_steps, batch_size
        self.schedule = _checked(schedule, n_steps)
        start = prior.action()
        self._actions = [MixedAction(start, target, c) for c in self.schedule]
        make = kernel or (lambda action: HMC(action, trajectory_length, levels, random_length))
        self._kernels = [make(action) for action in self._actions[1:]]
        self.force_evaluations = 0.0
        self.acceptance = torch.full((n_steps,), torch.nan, dtype=torch.float64)

    def log_weight(self, field: Tensor) -> None:
        """None: the weight belongs to the path, not to its end."""
        return

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent path ends and their log weights, ``[n]``."""
        if n < 1:
            raise InputError(f"expected a number of fields n >= 1, got {n}")
        size = min(self.batch_size or n, n)
        before = sum(action.n_forces for action in self._actions)
        accepted = torch.zeros(len(self._kernels), dtype=torch.float64)
        paths = [self._paths(min(size, n - first), rng, accepted) for first in range(0, n, size)]
        self.acceptance = accepted / (n * self.kernel_steps)
        spent = sum(action.n_forces for action in self._actions) - before
        self.force_evaluations = spent / len(paths)
        return torch.cat([field for field, _ in paths]), torch.cat([weight for _, weight in paths])

    def _paths(self, n: int, rng: torch.Generator, accepted: Tensor) -> tuple[Tensor, Tensor]:
        field = self.prior.sample(n, rng)
        s_0 = self._actions[0].value(field, {})
        # -S_0 - log_prob = log Z_0
        log_weight, failures = -s_0 - self.prior.log_prob(field), FailureCount()
        for t, kernel in enumerate(self._kernels):
            field, change = self._change(t, field)
            log_weight = log_weight + change
            # a path that a layer broke is counted by its weight
            broken = ~torch.isfinite(log_weight)
            field, delta = self._relax(kernel, field, rng, accepted[t])
            failures.add(delta.masked_fill(broken, 0.0).cpu(), t)
        return field, log_weight

    def _change(self, t: int, field: Tensor) -> tuple[Tensor, Tensor]:
        """The field after layer t and S_t(before) - S_{t+1}(after) + log det."""
        before, after = self._actions[t], self._actions[t + 1]
        if self.layers is None:
            return field, before.value(field, {}) - after.value(field, {})
        mapped, log_det = self.layers[t](field)
        mapped = self.space.reunitarise(mapped)
        return mapped, before.value(field, {}) - after.value(mapped, {}) + log_det

    def _relax(
        self, kernel: Kernel, field: Tensor, rng: torch.Generator, accepted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The field after the kernel's steps, and the sum of their energy changes."""
        state, total = kernel.at(field), torch.zeros(len(field), dtype=torch.float64, device=field.device)
        for _ in range(self.kernel_steps):
            state, info = kernel.step(rng, state)
            total = total + info.delta_H
            accepted += info.accepted.sum().cpu()
        return state.field, total


def _checked(schedule: Sequence[float] | None, n_steps: int) -> list[float]:
    """c_0 = 0, c_1 ... c_n = 1."""
    if schedule is None:
        return [t / n_steps for t in range(n_steps + 1)]
    c = [0.0, *(float(x) for x in schedule)]
    if len(c) != n_steps + 1 or c[-1] != 1 or any(b < a for a, b in pairwise(c)):
        raise InputError(
            f"a schedule of {n_steps} steps is c_1 <= ... <= c_{n_steps} = 1, got {list(schedule)}"
        )
    return c
