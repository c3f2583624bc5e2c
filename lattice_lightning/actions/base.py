"""What an action is: value, force, and the auxiliary fields it draws.

Actions are objects that HMC, training and measurement share. A sum of actions, and an action of
transformed links, are actions. Values are per chain, ``[batch]``, in units of the exponent of the
Boltzmann weight exp(-S).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice

__all__ = ["Action", "Aux", "GaugeAction", "SumAction"]

Aux = Mapping[str, Tensor]


class Action(ABC):
    """Base of all actions.

    ``strict`` decides what a solver that does not converge does: raise (True), or mark its chain
    with nan so that the accept step rejects and counts it (False, inside molecular dynamics).
    """

    lattice: Lattice
    space: FieldSpace

    def refresh(self, field: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Draw auxiliary fields from the action's heat bath; returns them and the value ``[batch]``.

        Bosonic actions return an empty dict.
        """
        return {}, self.value(field, {})

    @abstractmethod
    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``, at the accept tolerance."""

    @abstractmethod
    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dw_a for U -> exp(i w_a T_a) U (dS/dphi for scalars), at the MD tolerance."""

    def motion_force(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """The force of links in the layout of molecular dynamics, ``[n_generators, mu, *lattice, batch]``.

        See :meth:`lattice_lightning.groups.Group.to_motion`.
        """
        group = self.space
        if not isinstance(group, Group):
            raise InputError(f"only links are moved packed, and {type(self).__name__} is on {group.name}")
        return group.pack_algebra(self.force(group.from_motion(links), aux, strict=strict))

    def motion_value(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S of links in the layout of molecular dynamics, ``[batch]``, at the accept tolerance."""
        group = self.space
        if not isinstance(group, Group):
            raise InputError(f"only links are moved packed, and {type(self).__name__} is on {group.name}")
        return self.value(group.from_motion(links), aux, strict=strict)

    def energy(self, field: Tensor) -> Tensor:
        """S for each chain with its derivatives by the field, ``[batch]``; bosonic actions only.

        What flows train on: unlike :meth:`value` it takes any real dtype and keeps the graph.
        """
        return self.value(field, {})

    def pop_iterations(self) -> dict[str, Tensor]:
        """Solver iterations for each chain since the last call, by ``md`` and ``accept``."""
        return {}

    def parts(self) -> dict[str, "Action"]:
        """Named summands, for integrators with several time scales."""
        return {"action": self}

    def __add__(self, other: "Action") -> "SumAction":
        """Sum of two actions on the same field."""
        left, right = self._named_parts(), other._named_parts()
        for name, part in right.items():
            unique, k = name, 2
            while unique in left:
                unique, k = f"{name}_{k}", k + 1
            left[unique] = part
        return SumAction(left)

    def _named_parts(self) -> "dict[str, Action]":
        return dict(self.parts())


class SumAction(Action):
    """Sum of named actions on one field.

    Args:
        terms: actions by name; auxiliary fields are kept under the names the terms give them.

    Raises:
        InputError: when there is no term or the terms live on different fields.
    """

    def __init__(self, terms: Mapping[str, Action]) -> None:
        if not terms:
            raise InputError("a sum of actions needs at least one term, got none")
        self.terms = dict(terms)
        first = next(iter(self.terms.values()))
        self.lattice, self.space = first.lattice, first.space
        for name, term in self.terms.items():
            if term.lattice != first.lattice or term.space.name != first.space.name:
                raise InputError(
                    f"term {name!r} lives on {term.space.name}, lattice {term.lattice.shape}, but the "
                    f"others on {first.space.name}, lattice {first.lattice.shape}"
                )

    def refresh(self, field: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Draw the auxiliary fields of all terms."""
        aux: dict[str, Tensor] = {}
        total: Tensor | None = None
        for term in self.terms.values():
            drawn, value = term.refresh(field, rng)
            if clash := aux.keys() & drawn.keys():
                raise InputError(
                    f"two terms draw an auxiliary field of the name {', '.join(sorted(clash))}; give each "
                    "another name="
                )
            aux.update(drawn)
            total = value if total is None else total + value
        assert total is not None
        return aux, total

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """Sum of the values."""
        values = [term.value(field, aux, strict=strict) for term in self.terms.values()]
        return torch.stack(values).sum(0)

    def energy(self, field: Tensor) -> Tensor:
        """Sum of the energies."""
        return torch.stack([term.energy(field) for term in self.terms.values()]).sum(0)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """Sum of the forces."""
        total: Tensor | None = None
        for term in self.terms.values():
            force = term.force(field, aux, strict=strict)
            total = force if total is None else total + force
        assert total is not None
        return total

    def motion_value(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """Sum of the values; by :meth:`value` where a subclass wrote its own."""
        if type(self).value is not SumAction.value:
            return super().motion_value(links, aux, strict=strict)
        values = [term.motion_value(links, aux, strict=strict) for term in self.terms.values()]
        return torch.stack(values).sum(0)

    def motion_force(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """Sum of the forces; by :meth:`force` where a subclass wrote its own."""
        if type(self).force is not SumAction.force:
            return super().motion_force(links, aux, strict=strict)
        total: Tensor | None = None
        for term in self.terms.values():
            force = term.motion_force(links, aux, strict=strict)
            total = force if total is None else total + force
        assert total is not None
        return total

    def pop_iterations(self) -> dict[str, Tensor]:
        """Iterations of all terms added."""
        total: dict[str, Tensor] = {}
        for term in self.terms.values():
            for name, count in term.pop_iterations().items():
                total[name] = total[name] + count if name in total else count
        return total

    def parts(self) -> dict[str, Action]:
        """The terms."""
        return dict(self.terms)


class GaugeAction(Action):
    """An action written on packed links; value and force (by one backward pass) follow.

    Subclasses write :meth:`packed_value` only.
    """

    space: Group

    def __init__(self, lattice: Lattice, group: FieldSpace) -> None:
        if not isinstance(group, Group):
            raise InputError(
                f"{type(self).__name__} needs a gauge group (U(1) or SU(N)), got {group.name}"
            )
        self.lattice, self.space = lattice, group

    @property
    def group(self) -> Group:
        """The gauge group."""
        return self.space

    @abstractmethod
    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain from packed links; ``tolerance`` is ``"md"`` or ``"accept"``."""

    def value(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain, ``[batch]``."""
        self.space.check_field(field, self.lattice)
        with torch.no_grad():
            links = self.space.pack(field)
            return self.packed_value(links, aux, tolerance="accept", strict=strict)

    def energy(self, field: Tensor) -> Tensor:
        """S for each chain, differentiable; pure gauge actions only."""
        return self.packed_value(self.space.pack(field), {}, tolerance="accept", strict=True)

    def force(self, field: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dw_a, ``[batch, mu, *lattice, n_generators]``."""
        with torch.no_grad():
            links = self.space.to_motion(field)
            return self.space.unpack_algebra(self._packed_force(links, aux, strict))

    def motion_value(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """S for each chain; by :meth:`value` where a subclass wrote its own."""
        if type(self).value is not GaugeAction.value:
            return super().motion_value(links, aux, strict=strict)
        with torch.no_grad():
            return self._motion_value(links, aux, strict)

    def _motion_value(self, motion: Tensor, aux: Aux, strict: bool) -> Tensor:
        links = self.space.motion_links(motion)
        return self.packed_value(links, aux, tolerance="accept", strict=strict)

    def motion_force(self, links: Tensor, aux: Aux, *, strict: bool = True) -> Tensor:
        """dS/dw_a packed; by :meth:`force` where a subclass wrote its own."""
        if type(self).force is not GaugeAction.force:
            return super().motion_force(links, aux, strict=strict)
        with torch.no_grad():
            return self._packed_force(links, aux, strict)

    def _packed_force(self, motion: Tensor, aux: Aux, strict: bool) -> Tensor:
        """One backward pass through :meth:`packed_value`; actions with a closed form override it."""
        with torch.enable_grad():
            links = self.space.motion_links(motion).detach().requires_grad_()
            value = self.packed_value(links, aux, tolerance="md", strict=strict)
            (gradient,) = torch.autograd.grad(value.sum(), links)
        return self.space.algebra_gradient(links.detach(), gradient)
