"""HMC in the latent space of a flow: field-transformed HMC (0907.5491, 2112.01586)."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lattice_lightning.actions import Action, Aux
from lattice_lightning.actions.scaled import require_bosonic
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers.hmc import HMC
from lattice_lightning.samplers.integrators import Level
from lattice_lightning.samplers.kernel import Kernel, State, Trajectory

__all__ = ["InvertibleMap", "LatentHMC", "TransformedAction"]

#: distance of flow(inverse(x)) from x above which a latent field is not that of x
MAX_ROUND_TRIP = 1e-6
#: times that the inverse is solved again for what it missed
REFINEMENTS = 4


class InvertibleMap(Protocol):
    """An invertible map of fields with its log-determinant, as a Flow."""

    lattice: Lattice
    space: FieldSpace

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz|, ``[batch]``, from z."""
        ...

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|, ``[batch]``, from x."""
        ...


class TransformedAction(Action):
    """S~(z) = S(x(z)) - log |det dx/dz|: the target seen from the latent space.

    z is distributed as exp(-S~) where x is as exp(-S), whatever prior the flow was trained with.
    The force is one backward pass through flow and action. A chain that is not finite has the value
    and the force nan, and does not reach the flow.

    Args:
        target: the action S of the physical field, without pseudofermions.
        flow: the map z -> x.

    Raises:
        InputError: when target and flow live on different fields, or the target draws
            pseudofermions.
    """

    def __init__(self, target: Action, flow: InvertibleMap) -> None:
        if flow.lattice != target.lattice or flow.space.name != target.space.name:
            raise InputError(
                f"a flow of {flow.space.name}, lattice {flow.lattice.shape}, cannot transform a target on "
                f"{target.space.name}, lattice {target.lattice.shape}"
            )
        require_bosonic(target, "HMC in the latent space of a flow")
        self.target, self.flow = target, flow
        self.lattice, self.space = target.lattice, target.space

    def energy(self, field: Tensor) -> Tensor:
        """S~ for each chain with its derivatives by z, ``[batch]``."""
        x, log_det = self.flow.forward(field)
        return self.target.energy(x) - log_det

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S~ for each chain, ``[batch]``."""
        self.space.check_field(field, self.lattice)
        safe, finite = _finite_or_cold(self, field)
        with torch.no_grad():
            return torch.where(finite, self.energy(safe), torch.nan)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS~/dw_a (dS~/dz for scalars)."""
        safe, finite = _finite_or_cold(self, field)
        group = self.space if isinstance(self.space, Group) and self.space.name != "U(1)" else None
        with torch.enable_grad():
            variable = (group.pack(safe) if group else safe).detach().requires_grad_()
            value = self.energy(group.unpack(variable) if group else variable)
            (gradient,) = torch.autograd.grad(value.sum(), variable)
        with torch.no_grad():
            if group:
                gradient = group.unpack_algebra(group.algebra_gradient(variable.detach(), gradient))
            elif isinstance(self.space, Group):
                gradient = gradient.unsqueeze(-1)
            return torch.where(_per_chain(finite, gradient), gradient, torch.nan)


def _finite_or_cold(action: Action, field: Tensor) -> tuple[Tensor, Tensor]:
    """The field with the cold one in chains that are not finite, and which are finite."""
    finite = torch.isfinite(field).flatten(1).all(1)
    if bool(finite.all()):
        return field.detach(), finite
    cold = action.space.cold(action.lattice, len(field), field.device).to(field.dtype)
    return torch.where(_per_chain(finite, field), field, cold).detach(), finite


def _per_chain(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


class LatentHMC(Kernel):
    """HMC on z with S~(z) = S(x(z)) - log |det dx/dz|, its field x(z).

    ``State.field`` is x and ``State.cache["latent"]`` z. Any invertible map with the right
    log-determinant is exact; a good one makes S~ easier than S. For a flow whose inverse is only
    approximate (a continuous one), z is taken for that of x where flow(z) is x within 1e-6; a chain
    beyond is rejected and counted until it is started elsewhere.

    Args:
        target: the action S whose exp(-S) is sampled.
        flow: the map z -> x, its parameters fixed.
        trajectory_length: molecular dynamics time, positive.
        levels: as for HMC; the transformed action has one term.
        random_length: as for HMC.

    Raises:
        InputError: as :class:`TransformedAction` and HMC.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.models import FourierFlow
        >>> lattice, rng = Lattice((4, 4)), torch.Generator().manual_seed(1)
        >>> kernel = LatentHMC(Phi4(lattice, 1.0, 0.5), FourierFlow(lattice, m2=1.0))
        >>> state = kernel.init(torch.zeros(8, 4, 4, dtype=torch.float64), rng)
        >>> state, info = kernel.step(rng, state)
        >>> state.cache["latent"].shape
        torch.Size([8, 4, 4])
    """

    name = "latent_hmc"

    def __init__(
        self,
        target: Action,
        flow: InvertibleMap,
        trajectory_length: float = 1.0,
        levels: int | Sequence[Level] = 5,
        random_length: bool = False,
    ) -> None:
        self.target, self.flow = target, flow
        self.lattice, self.space = target.lattice, target.space
        self.latent = HMC(TransformedAction(target, flow), trajectory_length, levels, random_length)

    def init(self, field: Tensor, rng: torch.Generator) -> State:
        """Chains at a field and its latent one.

        Raises:
            InputError: when the field has another layout, or the flow's inverse does not lead to a
                latent field of it.
        """
        state = super().init(field, rng)
        lost = torch.isnan(state.cache["latent"]).flatten(1).any(1)
        if bool(lost.any()):
            raise InputError(
                f"chain {int(lost.nonzero()[0])} cannot start at its field: the flow maps no latent field "
                f"to it within {MAX_ROUND_TRIP:.0e}; start from a sample of the flow, or solve its "
                "inverse to more digits"
            )
        return state

    @torch.no_grad()
    def at(self, field: Tensor) -> State:
        """The state at a given field; z is nan where the flow's inverse fails."""
        aim = field
        for _ in range(1 + REFINEMENTS):
            # the inverse of an integrated flow is one to the integrator's order: aim beside the mark
            z = self.space.reunitarise(self.flow.inverse(aim)[0])
            image = self.flow.forward(z)[0]
            distance = self._components(image) - self._components(field)
            found = distance.abs().flatten(1).amax(1) <= MAX_ROUND_TRIP
            if bool(found.all()):
                break
            aim = self._shifted(aim, field, image)
        return State(field, {"latent": torch.where(_per_chain(found, z), z, torch.nan)})

    def _shifted(self, aim: Tensor, field: Tensor, image: Tensor) -> Tensor:
        """aim moved by what leads from the image to the field."""
        if isinstance(self.space, Group) and self.space.n_colors > 1:
            return field @ image.mH @ aim
        return self.space.reunitarise(aim + field - image)

    def _components(self, field: Tensor) -> Tensor:
        """Real numbers, chains first, in which equal fields are equal."""
        if not isinstance(self.space, Group):
            return field
        return self.space.pack(field).movedim(-1, 0)

    def propose(self, rng: torch.Generator, state: State) -> Trajectory:
        """Molecular dynamics of z, mapped to x at its end."""
        z = state.cache["latent"]
        moved = self.latent.propose(rng, State(z))
        safe, finite = _finite_or_cold(self.target, self.space.reunitarise(moved.end))
        with torch.no_grad():
            x = self.space.reunitarise(self.flow.forward(safe)[0])
        end = torch.where(_per_chain(finite, x), x, torch.nan)
        return Trajectory(
            state.field, end, {}, self.target.value(state.field, {}), self.target.value(end, {}),
            moved.delta_H, moved.iterations, cache_start={"latent": z}, cache_end={"latent": safe},
        )

    def reversal_error(self, rng: torch.Generator, state: State) -> Tensor:
        """|change of H| after running a trajectory forward and back, ``[batch]``."""
        return self.latent.reversal_error(rng, State(state.cache["latent"]))
