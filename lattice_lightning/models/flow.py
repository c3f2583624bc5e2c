"""Normalizing flows: invertible maps of fields with their log-determinant, and the densities they make.

A density is taken with respect to the Lebesgue measure of scalars and the normalised Haar measure of
links (for U(1) d theta / 2 pi), so that log Z = log E_q[exp(-S) / q] is the free energy in that measure.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["Flow", "FlowModel", "FlowStack", "Prior"]


class Flow(nn.Module, ABC):
    """An invertible map z -> x of fields in the public layout.

    The arithmetic on fields is done in the field's dtype and networks in that of their weights, so that
    one model trains in single and is accepted in double precision. Masks follow from ``lattice`` when
    they are needed and are no buffers, so that :meth:`on` can put the same weights on another lattice.

    Args:
        lattice: the lattice.
        space: what the field lives on.

    Attributes:
        symmetries: names of the groups that the map commutes with (``gauge``, ``translations``,
            ``mask_translations``, ``reflections``, ``z2``, ...); each is tested, none is implied.
    """

    symmetries: tuple[str, ...] = ()

    def __init__(self, lattice: Lattice, space: FieldSpace) -> None:
        super().__init__()
        self.lattice, self.space = lattice, space
        self.check_lattice(lattice)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError when the flow cannot run on that lattice; by default it can on any."""

    @abstractmethod
    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz|, ``[batch]``, from z."""

    @abstractmethod
    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|, ``[batch]``, from x."""

    def on(self, lattice: Lattice) -> Self:
        """A copy with the same weights on another lattice.

        Raises:
            InputError: when a layer does not allow that lattice.
        """
        copy = deepcopy(self)
        for module in copy.modules():
            if isinstance(module, Flow):
                module.check_lattice(lattice)
                module.lattice = lattice
        return copy

    @property
    def n_parameters(self) -> int:
        """Number of trainable real parameters."""
        return sum(p.numel() for p in self.parameters())


class FlowStack(Flow):
    """Flows applied one after another.

    Raises:
        InputError: for no layer, or layers on different fields.
    """

    def __init__(self, layers: Sequence[Flow]) -> None:
        if not layers:
            raise InputError("a stack of flows needs at least one layer, got none")
        first = layers[0]
        super().__init__(first.lattice, first.space)
        for k, layer in enumerate(layers):
            if layer.lattice != first.lattice or layer.space.name != first.space.name:
                raise InputError(
                    f"layer {k} maps {layer.space.name} on {layer.lattice.shape}, the first "
                    f"{first.space.name} on {first.lattice.shape}"
                )
        self.layers = nn.ModuleList(layers)
        # what every layer commutes with; mask translations that are common to all
        self.symmetries = tuple(
            name for name in first.symmetries if all(name in layer.symmetries for layer in layers)
        )

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the layers in order; log-determinants add."""
        total = torch.zeros(field.shape[0], dtype=_real(field), device=field.device)
        for layer in self.layers:
            field, log_det = layer(field)
            total = total + log_det
        return field, total

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the layers from the last to the first."""
        total = torch.zeros(field.shape[0], dtype=_real(field), device=field.device)
        for layer in reversed(self.layers):
            assert isinstance(layer, Flow)
            field, log_det = layer.inverse(field)
            total = total + log_det
        return field, total


def _real(field: Tensor) -> torch.dtype:
    return field.real.dtype if field.is_complex() else field.dtype


class Prior(nn.Module, ABC):
    """A density that can be drawn from: the start of a flow, or of annealing.

    Args:
        lattice: the lattice.
        space: what the field lives on.
    """

    def __init__(self, lattice: Lattice, space: FieldSpace) -> None:
        super().__init__()
        self.lattice, self.space = lattice, space

    @abstractmethod
    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent fields, public layout, double precision, on the generator's device."""

    @abstractmethod
    def log_prob(self, field: Tensor) -> Tensor:
        """Normalised log density, ``[batch]``; differentiable."""

    @abstractmethod
    def action(self) -> Action:
        """S_0 with log_prob = -S_0 - log Z_0: where annealing and continuous flows start."""

    def on(self, lattice: Lattice) -> Self:
        """The same prior on another lattice."""
        copy = deepcopy(self)
        copy.lattice = lattice
        return copy


class FlowModel(nn.Module):
    """The density q of x = flow(z), z drawn from the prior.

    Args:
        prior: density of z.
        flow: invertible map.

    Raises:
        InputError: when prior and flow live on different fields.

    Example:
        >>> from lattice_lightning.models import FourierFlow, GaussianPrior
        >>> lattice = Lattice((4, 4))
        >>> model = FlowModel(GaussianPrior(lattice), FourierFlow(lattice, m2=1.0))
        >>> field, log_q = model.sample(3, torch.Generator().manual_seed(1))
        >>> torch.allclose(model.log_prob(field), log_q)
        True
    """

    def __init__(self, prior: Prior, flow: Flow) -> None:
        super().__init__()
        if prior.lattice != flow.lattice or prior.space.name != flow.space.name:
            raise InputError(
                f"the prior lives on {prior.space.name}, lattice {prior.lattice.shape}, the flow on "
                f"{flow.space.name}, lattice {flow.lattice.shape}"
            )
        self.prior, self.flow = prior, flow

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return self.flow.lattice

    @property
    def space(self) -> FieldSpace:
        """What the field lives on."""
        return self.flow.space

    @property
    def n_parameters(self) -> int:
        """Number of trainable real parameters, the prior's included."""
        return sum(p.numel() for p in self.parameters())

    def sample(
        self, n: int, rng: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """n independent fields and their log q, ``[n]``; differentiable by the flow's parameters.

        Args:
            n: number of fields.
            rng: generator on the device of the model.
            dtype: real dtype of the arithmetic; single only for training.
        """
        z = self.prior.sample(n, rng)
        z = z.to(torch.complex64 if z.is_complex() else dtype) if dtype == torch.float32 else z
        field, log_det = self.flow(z)
        return field, self.prior.log_prob(z) - log_det

    def log_prob(self, field: Tensor) -> Tensor:
        """log q of given fields, ``[batch]``."""
        z, log_det = self.flow.inverse(field)
        return self.prior.log_prob(z) + log_det

    def on(self, lattice: Lattice) -> "FlowModel":
        """The model with the same weights on another lattice; InputError where a layer forbids it."""
        return FlowModel(self.prior.on(lattice), self.flow.on(lattice))
