"""Several kernels in turn, so that each moves what the others freeze."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.samplers.kernel import Info, Kernel, State, Trajectory

__all__ = ["Alternating"]


class Alternating(Kernel):
    """n_1 steps of a first kernel, n_2 of a second and so on: one step of this kernel.

    Each leaves the same exp(-S) invariant, so their product does. What a kernel keeps beside the
    field (a log weight, a latent field) is computed anew where another kernel moved the field.

    ``Info`` is that of the last step of the *first* kernel; solver iterations are summed over all,
    and delta_H is nan for a chain in which any step of any kernel had no finite delta_H, so that
    failures are counted wherever they happen.

    Args:
        kernels: pairs of a kernel and its number of steps, at least one.

    Raises:
        InputError: for no kernel, less than one step, or kernels of different targets.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.samplers import HMC
        >>> target = Phi4(Lattice((4, 4)), m2=1.0, lam=1.0)
        >>> short, long = HMC(target, 0.5, levels=2), HMC(target, 2.0, levels=8)
        >>> kernel = Alternating([(long, 1), (short, 3)])
        >>> rng = torch.Generator().manual_seed(1)
        >>> state = kernel.init(torch.zeros(8, 4, 4, dtype=torch.float64), rng)
        >>> state, info = kernel.step(rng, state)
    """

    name = "alternating"

    def __init__(self, kernels: Sequence[tuple[Kernel, int]]) -> None:
        if not kernels:
            raise InputError("alternating needs at least one kernel, got none")
        self.kernels = [(kernel, int(n)) for kernel, n in kernels]
        first = self.kernels[0][0]
        self.lattice, self.space = first.lattice, first.space
        for kernel, n in self.kernels:
            if n < 1:
                raise InputError(f"{kernel.name} must take at least one step in turn, got {n}")
            if kernel.lattice != self.lattice or kernel.space.name != self.space.name:
                raise InputError(
                    f"{kernel.name} moves {kernel.space.name} on {kernel.lattice.shape}, {first.name} "
                    f"{self.space.name} on {self.lattice.shape}; all kernels need one field"
                )
            _check_same_target(first, kernel)

    def init(self, field: Tensor, rng: torch.Generator) -> State:
        """Chains that start from a field; every kernel must accept it."""
        self.check_start(field)
        for kernel, _ in self.kernels:
            # a kernel that cannot take over a field fails here and not in the middle of a run
            kernel.at(field)
            kernel.init(field, rng)
        return State(field.clone())

    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """A proposal of the first kernel: what streams of trajectories see of this one."""
        first = self.kernels[0][0]
        return first.propose(rng, first.at(state.field))

    def step(self, rng: torch.Generator, state: State) -> tuple[State, Info]:
        """All kernels in turn."""
        shown: Info | None = None
        failed: Tensor | None = None
        iterations: dict[str, Tensor] = {}
        field = state.field
        for kernel, n in self.kernels:
            inner = kernel.at(field)
            for _ in range(n):
                inner, info = kernel.step(rng, inner)
                bad = ~torch.isfinite(info.delta_H)
                failed = bad if failed is None else failed | bad
                for name, count in info.iterations.items():
                    iterations[name] = iterations[name] + count if name in iterations else count
            field = inner.field
            shown = shown or info
        assert shown is not None and failed is not None
        delta_H = torch.where(failed, torch.nan, shown.delta_H)
        return State(field), Info(shown.accepted, delta_H, iterations)


def _check_same_target(first: Kernel, other: Kernel) -> None:
    """Compare the targets' differences of actions on two random fields, where there are targets."""
    a, b = getattr(first, "target", None), getattr(other, "target", None)
    if a is b or not isinstance(a, Action) or not isinstance(b, Action):
        return
    rng = torch.Generator().manual_seed(0)
    fields = first.space.hot(first.lattice, 2, rng)
    if a.refresh(fields, rng)[0] or b.refresh(fields, rng)[0]:
        raise InputError(
            f"{first.name} and {other.name} have two actions with pseudofermions as targets; give both "
            "the same object"
        )
    left, right = a.value(fields, {}), b.value(fields, {})
    if not torch.allclose(left[0] - left[1], right[0] - right[1], rtol=1e-8, atol=1e-8):
        raise InputError(
            f"{other.name} has another target than {first.name}: S differs by "
            f"{float(right[0] - right[1])} between two fields, not {float(left[0] - left[1])}"
        )
