"""Hybrid Monte Carlo and self-learning HMC.

HMC (Phys. Lett. B 195, 216) moves with the force of the target. Self-learning HMC (1909.02255,
2103.11965) moves with the force of an effective action S_theta and accepts with the target:
delta_H = S[U'] + K' - S[U] - K with the same pseudofermions. Any reversible, area-preserving
motion is exact, however bad the effective action. Links stay packed throughout a trajectory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.actions import Action, Aux, SumAction
from lattice_lightning.actions.scaled import require_bosonic
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import U1, Group
from lattice_lightning.samplers.integrators import Force, Level, LinkMotion, integrate
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
        precision: ``64``, or ``32`` for molecular dynamics of pure gauge theory in single precision.
            The end is put back on the group and both ends are weighed in double precision; the motion
            runs back up to rounding in single precision (see :meth:`reversal_error`).

    Raises:
        InputError: for a length that is not positive, a level that names no term of the effective
            action, a term that no level or two levels have, actions on different fields, or another
            precision than double for scalars or pseudofermions.

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
        precision: str = "64",
    ) -> None:
        if not trajectory_length > 0:
            raise InputError(f"trajectory_length must be positive, got {trajectory_length}")
        if str(precision) not in ("32", "64"):
            raise InputError(f"precision of molecular dynamics must be 64 or 32, got {precision!r}")
        if str(precision) == "32":
            if not isinstance(target.space, Group):
                raise InputError(
                    f"only links move in single precision, got {target.space.name}; use precision=64"
                )
            require_bosonic(target, "molecular dynamics in single precision")
        if effective.lattice != target.lattice or effective.space.name != target.space.name:
            raise InputError(
                f"effective action on {effective.space.name}, lattice {effective.lattice.shape}, "
                f"cannot guide a target on {target.space.name}, lattice {target.lattice.shape}"
            )
        self.target, self.effective = target, effective
        self.lattice, self.space = target.lattice, target.space
        self.trajectory_length, self.random_length = float(trajectory_length), random_length
        self.precision = str(precision)
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
        motion = self._enter(start)
        aux, action_start = self._refresh(start, motion, rng)
        momentum, kinetic_start = self._draw_momentum(start, rng)
        length = self.trajectory_length
        if self.random_length:
            uniform = torch.rand((), generator=rng, dtype=torch.float64, device=rng.device)
            length *= 0.5 + float(uniform)
        end, motion, _, kinetic_end = self._move(motion, momentum, aux, length)
        action_end = self._value(motion, aux, strict=False)
        delta = kinetic_end - kinetic_start + action_end - action_start
        return Trajectory(start, end, aux, action_start, action_end, delta, self._iterations())

    # a trajectory holds links and momenta in the layout of molecular dynamics, scalars as they are

    def _enter(self, field: Tensor) -> Tensor:
        return self.space.to_motion(field) if isinstance(self.space, Group) else field

    def _value(self, motion: Tensor, aux: Aux, strict: bool) -> Tensor:
        if isinstance(self.space, Group):
            return self.target.motion_value(motion, aux, strict=strict)
        return self.target.value(motion, aux, strict=strict)

    def _refresh(self, field: Tensor, motion: Tensor, rng: torch.Generator) -> tuple[Aux, Tensor]:
        if type(self.target).refresh is Action.refresh:
            # draws nothing: the value alone, the way that the end gets it
            return {}, self._value(motion, {}, strict=True)
        return self.target.refresh(field, rng)

    def _draw_momentum(self, field: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Momenta as the trajectory holds them, and their kinetic energy."""
        group = self.space
        if not isinstance(group, Group):
            momentum = group.momentum(field, rng)
            return momentum, group.kinetic(momentum)
        if self.precision == "64":
            momentum = group.momentum(field, rng)
        else:
            # normal numbers in single precision cost a seventh
            shape = (*group.site_shape(field), group.n_generators)
            momentum = torch.randn(shape, generator=rng, dtype=torch.float32, device=rng.device)
        return group.pack_algebra(momentum), group.kinetic(momentum.double())

    def _move(
        self, motion: Tensor, momentum: Tensor, aux: Aux, length: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The end in the public layout and as the trajectory holds it, its momenta and their energy."""
        group = self.space
        if not isinstance(group, Group):
            end, last = integrate(group, motion, momentum, self.forces(aux), length)
            return end, end, last, group.kinetic(last)

        def bind(action: Action) -> Force:
            return lambda links: action.motion_force(links, aux, strict=False)

        forces = [(level, bind(a)) for level, a in zip(self.levels, self._level_actions, strict=True)]
        links = motion if self.precision == "64" else motion.float()
        links, last = integrate(LinkMotion(group), links, momentum, forces, length)
        end = group.from_motion(links.to(motion.dtype))
        if self.precision == "32":
            # angles have nothing to put back
            end = end if isinstance(group, U1) else group.reunitarise(end)
            links = group.to_motion(end)
        energy = 0.5 * last.double().square().flatten(0, -2).sum(0)
        return end, links, last, energy

    def _iterations(self) -> dict[str, Tensor]:
        counts = dict(self.target.pop_iterations())
        for name, count in self.effective.pop_iterations().items():
            counts[name] = counts[name] + count if name in counts else count
        return counts

    def reversal_error(self, rng: torch.Generator, state: State) -> Tensor:
        """|change of H| after running a trajectory forward and back, ``[batch]``.

        Of the order of the solver's MD tolerance; a kernel is usable where it stays below 1e-4.
        """
        motion = self._enter(state.field)
        aux, action = self._refresh(state.field, motion, rng)
        momentum, kinetic = self._draw_momentum(state.field, rng)
        length = self.trajectory_length
        _, motion, last, _ = self._move(motion, momentum, aux, length)
        _, motion, _, kinetic_back = self._move(motion, -last, aux, length)
        error = (kinetic_back - kinetic + self._value(motion, aux, strict=True) - action).abs()
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
        precision: str = "64",
    ) -> None:
        super().__init__(target, target, trajectory_length, levels, random_length, precision)
