"""What gauge-equivariant couplings of U(1) and of SU(N) share: stripes of moving links, and a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.conditioners import ConvNet
from lattice_lightning.models.flow import Flow
from lattice_lightning.models.gauge_masks import GaugeStripes

__all__ = ["StripeCoupling"]


class StripeCoupling(Flow, ABC):
    """Moves the links of some stripes by a map that a network steers from loops without them.

    Args:
        lattice: two dimensions, a multiple of 4 across the stripes.
        group: gauge group.
        mask: the stripes.
        channels: numbers of the network in and out, for each plaquette.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        init_scale: factor on its last layer's initial weights.
        dtype: of its weights; the field keeps its own.
        rng: generator of its initial weights.

    Raises:
        InputError: for a lattice on which the stripes or the kernels do not fit.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mask: GaugeStripes,
        channels: tuple[int, int],
        hidden: Sequence[int],
        kernel_size: int,
        init_scale: float,
        dtype: torch.dtype,
        rng: torch.Generator | None,
    ) -> None:
        mask.check(lattice)
        super().__init__(lattice, group)
        self.mask = mask
        self.net = ConvNet(2, *channels, hidden, kernel_size, init_scale=init_scale, dtype=dtype, rng=rng)
        self.net.check_lattice(lattice)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError where the stripes do not fit."""
        # the first call comes from the base class, before there is a network
        if "net" in self._modules:
            self.mask.check(lattice)
            self.net.check_lattice(lattice)

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Move the links of the stripes."""
        return self.apply_map(field, inverse=False)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Move them back."""
        return self.apply_map(field, inverse=True)

    @abstractmethod
    def apply_map(self, field: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """The field with the links of the stripes moved or moved back, and the log-determinant."""
