"""Gauge-covariant maps of links to links: the base of every network on gauge fields."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice

__all__ = ["LinkMap", "LinkMapStack"]


class LinkMap(nn.Module):
    """A covariant map U -> U'[U] with real trainable parameters, the identity at zero weights.

    A parameter may come with one more axis at its end, a value for each chain: weights multiply packed
    fields, whose last axis the chains are. Gauss-Newton takes its derivatives that way.

    Args:
        lattice: the lattice.
        group: gauge group.

    Raises:
        InputError: for a field without gauge group.
    """

    def __init__(self, lattice: Lattice, group: FieldSpace) -> None:
        super().__init__()
        if not isinstance(group, Group):
            raise InputError(f"{type(self).__name__} maps gauge links, got a field of {group.name}")
        self.lattice, self.group = lattice, group

    @abstractmethod
    def forward(self, links: Tensor) -> Tensor:
        """Packed links ``[*components, mu, *lattice, batch]`` to packed links."""

    def transform(self, field: Tensor) -> Tensor:
        """The map in the public layout ``[batch, mu, *lattice, N, N]`` (U(1): angles)."""
        self.group.check_field(field, self.lattice)
        return self.group.unpack(self(self.group.pack(field)))

    def reset_to_identity(self) -> None:
        """Set every weight to zero."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()


class LinkMapStack(LinkMap):
    """Maps applied one after another, any mixture of layers.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> from lattice_lightning.models import CovNet
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> stack = LinkMapStack([CovNet(lattice, group), CovNet(lattice, group)])
        >>> stack.transform(group.cold(lattice, 3)).shape
        torch.Size([3, 2, 4, 4, 2, 2])
    """

    def __init__(self, layers: Sequence[LinkMap]) -> None:
        if not layers:
            raise InputError("a stack needs at least one layer, got none")
        super().__init__(layers[0].lattice, layers[0].group)
        self.layers = nn.ModuleList(layers)

    def forward(self, links: Tensor) -> Tensor:
        """Apply the layers in order."""
        for layer in self.layers:
            links = layer(links)
        return links

    def reset_to_identity(self) -> None:
        """Reset every layer."""
        for layer in self.layers:
            assert isinstance(layer, LinkMap)
            layer.reset_to_identity()
