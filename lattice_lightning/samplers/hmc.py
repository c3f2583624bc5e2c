"""Hybrid Monte Carlo and self-learning HMC.

HMC (Phys. Lett. B 195, 216) moves with the force of the target. Self-learning HMC (1909.02255,
2103.11965) moves with the force of an effective action S_theta and accepts with the target:
delta_H = S[U'] + K' - S[U] - K with the same pseudofermions. Any reversible, area-preserving
motion is exact, however bad the effective action.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.actions import Action, Aux, SumAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.samplers.integrators import Force, Level, integrate
from lattice_lightning.samplers.kernel import Kernel, State, Trajectory

__all__ = ["HMC", "SelfLearningHMC"]


class SelfLearningHMC(Kernel):
    """Molecular dynamics with an effective action, Metropolis step with the target.

    Args:
        target: the action S whose exp(-S) is sampled.
        effective: the action whose force moves the fields; it takes the target's aux.
        trajectory_length: molecular dynamics time, positive.
        levels: time scales, outermost first; or an integer number of Omelyan steps.
        random_length: draw the length of each trajectory uniformly from half to three halves of
            ``trajectory_length`` (the number of steps stays), against resonances.

    Raises:
        InputError: for a length that is not positive, a level that names no term of the effective
            action, a term that no level or two levels have, or actions on different fields.

    Example:
        >>> from lattice_lightning.actions import WilsonGauge
        >>> from lattice_lightning.groups import SU2
        >>> from lattice_lightning.lattice import Lattice
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> target, guide = (WilsonGauge(lattice, group, beta) for beta in (2.0, 1.8))
        >>> kernel = SelfLearningHMC(target, guide, levels=4)
        >>> rng = torch.Generator().manual_seed(1)
        >>> state, info = kernel.step(rng, kernel.init(group.hot(lattice, 8, rng), rng))
        >>> info.delta_H.shape
        torch.Size([8])
    """

    name = "self_learning_hmc"

    def __init__(
        self,
        target: Action,
        effective: Action,
        trajectory_length: float = 1.0,
        levels: int | Sequence[Level] = 5,
        random_length: bool = False,
    ) -> None:
        if not trajectory_length > 0:
            raise InputError(f"trajectory_length must be positive, got {trajectory_length}")
        if effective.lattice != target.lattice or effective.space.name != target.space.name:
            raise InputError(
                f"effective action on {effective.space.name}, lattice {effective.lattice.shape}, "
                f"cannot guide a target on {target.space.name}, lattice {target.lattice.shape}"
            )
        self.target, self.effective = target, effective
        self.lattice, self.space = target.lattice, target.space
        self.trajectory_length, self.random_length = float(trajectory_length), random_length
        self.levels = (Level(levels),) if isinstance(levels, int) else tuple(levels)
        self._level_actions = self._assign(effective.parts())

    def _assign(self, parts: dict[str, Action]) -> list[Action]:
        if not self.levels:
            raise InputError("an integrator needs at least one level, got none")
        if len(self.levels) == 1 and self.levels[0].terms is None:
            return [self.effective]
        taken: list[str] = []
        actions: list[Action] = []
        for level in self.levels:
            names = level.terms
            if names is None or any(name not in parts for name in names):
                raise InputError(
                    f"every level of several needs terms out of {sorted(parts)}, got {names}"
                )
            taken += names
            actions.append(SumAction({name: parts[name] for name in names}))
        if sorted(taken) != sorted(parts):
            raise InputError(
                f"the levels must share out the terms {sorted(parts)} once each, got {sorted(taken)}"
            )
        return actions

    def forces(self, aux: Aux) -> list[tuple[Level, Force]]:
        """Levels with their forces at fixed auxiliary fields."""

        def bind(action: Action) -> Force:
            return lambda field: action.force(field, aux, strict=False)

        pairs = zip(self.levels, self._level_actions, strict=True)
        return [(level, bind(action)) for level, action in pairs]

    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """Refresh aux and momenta, integrate, evaluate the target at both ends."""
        start = state.field
        # counts of somebody else's solves with the same action are not ours
        self.target.pop_iterations(), self.effective.pop_iterations()
        aux, action_start = self.target.refresh(start, rng)
        momentum = self.space.momentum(start, rng)
        length = self.trajectory_length
        if self.random_length:
            uniform = torch.rand((), generator=rng, dtype=torch.float64, device=rng.device)
            length *= 0.5 + float(uniform)
        end, last = integrate(self.space, start, momentum, self.forces(aux), length)
        action_end = self.target.value(end, aux, strict=False)
        delta = self.space.kinetic(last) - self.space.kinetic(momentum) + action_end - action_start
        return Trajectory(start, end, aux, action_start, action_end, delta, self._iterations())

    def _iterations(self) -> dict[str, Tensor]:
        counts = dict(self.target.pop_iterations())
        for name, count in self.effective.pop_iterations().items():
            counts[name] = counts[name] + count if name in counts else count
        return counts

    def reversal_error(self, rng: torch.Generator, state: State) -> Tensor:
        """|change of H| after running a trajectory forward and back, ``[batch]``.

        Of the order of the solver's MD tolerance; a kernel is usable where it stays below 1e-4.
        """
        aux, action = self.target.refresh(state.field, rng)
        momentum = self.space.momentum(state.field, rng)
        forces, length = self.forces(aux), self.trajectory_length
        end, last = integrate(self.space, state.field, momentum, forces, length)
        back, again = integrate(self.space, end, -last, forces, length)
        kinetic = self.space.kinetic(again) - self.space.kinetic(momentum)
        error = (kinetic + self.target.value(back, aux) - action).abs()
        self._iterations()
        return error


class HMC(SelfLearningHMC):
    """Hybrid Monte Carlo: the target is its own guide. Arguments as :class:`SelfLearningHMC`.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> kernel = HMC(Phi4(Lattice((4, 4)), m2=1.0, lam=1.0), levels=5)
        >>> rng = torch.Generator().manual_seed(1)
        >>> state = kernel.init(torch.zeros(4, 4, 4, dtype=torch.float64), rng)
        >>> state, info = kernel.step(rng, state)
    """

    name = "hmc"

    def __init__(
        self,
        target: Action,
        trajectory_length: float = 1.0,
        levels: int | Sequence[Level] = 5,
        random_length: bool = False,
    ) -> None:
        super().__init__(target, target, trajectory_length, levels, random_length)
