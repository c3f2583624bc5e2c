"""HMC with Fourier-accelerated momenta for scalar fields, as along a path of actions.

Momenta with <|p(k)|^2> = V M(k) make all modes of a nearly free field move at one rate (Batrouni et al.,
Phys. Rev. D 32 (1985) 2736), so that autocorrelation does not grow with the correlation length of
the high modes. Exact for any M > 0.
"""

from math import isfinite

import torch
from torch import Tensor

from lattice_lightning.actions import Action, Aux
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers.kernel import Kernel, State, Trajectory

__all__ = ["FourierHMC", "QuarticAction"]


class QuarticAction(Action):
    """S = 1/(2 V) sum_p K(p) |phi(p)|^2 + lam sum_n phi^4, K of either sign where lam > 0.

    Args:
        lattice: the lattice.
        kernel: K(p) = K(-p), ``[*lattice]``.
        lam: quartic coupling, >= 0.

    Raises:
        InputError: for another shape, or an action without lower bound.

    Example:
        >>> from lattice_lightning.actions import Phi4, free_kernel
        >>> lattice = Lattice((4, 4))
        >>> action, phi4 = QuarticAction(lattice, free_kernel(lattice, -4.0), 8.0), Phi4(lattice, -4.0, 8.0)
        >>> field = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        >>> torch.allclose(action.value(field, {}), phi4.value(field, {}))
        True
    """

    def __init__(self, lattice: Lattice, kernel: Tensor, lam: float) -> None:
        if tuple(kernel.shape) != lattice.shape:
            raise InputError(f"the kernel must have the shape {lattice.shape}, got {tuple(kernel.shape)}")
        if lam < 0 or not isfinite(lam) or (lam == 0 and not bool((kernel > 0).all())):
            raise InputError(
                f"a quartic action with lam={lam} and smallest K(p) {float(kernel.min()):.3g} is not "
                "bounded from below"
            )
        self.lattice, self.space, self.lam = lattice, RealLine(), float(lam)
        self.kernel = kernel
        self.half = kernel[..., : lattice.shape[-1] // 2 + 1].contiguous()
        self.axes = tuple(range(-lattice.ndim, 0))

    def modes(self, field: Tensor) -> Tensor:
        """Half of the modes of a real field."""
        return torch.fft.rfftn(field, dim=self.axes)

    def field(self, modes: Tensor) -> Tensor:
        """The real field of half of its modes."""
        return torch.fft.irfftn(modes, s=self.lattice.shape, dim=self.axes)

    def quadratic(self, modes: Tensor, kernel: Tensor) -> Tensor:
        """1/(2 V) sum_p kernel |modes|^2 over all momenta, ``[batch]``, kernel ``[*half]``."""
        weighted = kernel * half_weights(self.lattice).to(kernel)
        square = modes.real.square() + modes.imag.square()
        return (square.flatten(1) @ weighted.flatten()) / (2 * self.lattice.volume)

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``."""
        return self.of(field, self.modes(field), self.half.to(field))

    def of(self, field: Tensor, modes: Tensor, half: Tensor) -> Tensor:
        """S of a field whose modes are known, ``[batch]``."""
        return self.quadratic(modes, half) + self.lam * field.square().square().flatten(1).sum(1)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dphi, the field's shape."""
        return self.field(self.half.to(field) * self.modes(field)) + (4 * self.lam) * field.pow(3)


def half_weights(lattice: Lattice) -> Tensor:
    """How many momenta each of the half that a real transform keeps stands for, ``[L // 2 + 1]``."""
    extent = lattice.shape[-1]
    weights = torch.full((extent // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1.0
    if extent % 2 == 0:
        weights[-1] = 1.0
    return weights


class FourierHMC(Kernel):
    """HMC for a :class:`QuarticAction` with kinetic energy 1/(2 V) sum_p |pi(p)|^2 / M(p), by leapfrog.

    The length of each trajectory is drawn from half to three halves of ``n_steps * step_size``, in units
    where a mode with K = M has frequency 1.

    Args:
        target: the action.
        mass: M(p) > 0, ``[*lattice]``.
        n_steps: leapfrog steps.
        step_size: their mean size.

    Raises:
        InputError: for options out of range.
    """

    name = "fourier_hmc"

    def __init__(
        self, target: QuarticAction, mass: Tensor, n_steps: int = 8, step_size: float = 0.12
    ) -> None:
        if n_steps < 1 or not step_size > 0:
            raise InputError(f"expected n_steps >= 1 and step_size > 0, got {n_steps}, {step_size}")
        if tuple(mass.shape) != target.lattice.shape or not bool((mass > 0).all()):
            raise InputError(f"the mass must be positive and of shape {target.lattice.shape}")
        self.target, self.lattice, self.space = target, target.lattice, target.space
        self.mass = mass[..., : target.lattice.shape[-1] // 2 + 1].contiguous()
        self.n_steps, self.step_size = int(n_steps), float(step_size)

    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """Draw momenta, integrate in momentum space (two transforms a step)."""
        start, action = state.field, self.target
        mass, kernel = self.mass.to(start), action.half.to(start)
        momentum = action.modes(self.space.momentum(start, rng)) * mass.sqrt()
        uniform = torch.rand((), generator=rng, dtype=torch.float64, device=rng.device)
        step = self.step_size * (0.5 + float(uniform))
        drift, field, modes = step / mass, start, action.modes(start)
        value_start = action.of(start, modes, kernel)
        before = action.quadratic(momentum, 1 / mass)
        for k in range(self.n_steps + 1):
            size = step if 0 < k < self.n_steps else step / 2
            kick = kernel * modes
            if action.lam:
                kick = kick + action.modes((4 * action.lam) * field * field.square())
            momentum = momentum - size * kick
            if k < self.n_steps:
                modes = modes + drift * momentum
                field = action.field(modes)
        value_end = action.of(field, modes, kernel)
        delta = action.quadratic(momentum, 1 / mass) - before + value_end - value_start
        return Trajectory(start, field, {}, value_start, value_end, delta)
