"""Coupling layers of scalar fields: frozen sites steer an elementwise map of the active ones.

The log-determinant is the sum over active sites and components. A masked coupling has only the
translations of its mask, since its convolutions know left from right.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.conditioners import ConvNet
from lattice_lightning.models.flow import Flow
from lattice_lightning.models.masks import Mask
from lattice_lightning.models.splines import rational_quadratic

__all__ = ["AffineCoupling", "Coupling", "SplineCoupling", "scalar_space"]


def scalar_space(space: FieldSpace | None, what: str) -> RealLine:
    """The real line, one component by default.

    Raises:
        InputError: for a gauge group.
    """
    if space is None:
        return RealLine()
    if not isinstance(space, RealLine):
        raise InputError(f"{what} maps real scalar fields, got a field of {space.name}")
    return space


class Coupling(Flow):
    """Base of scalar couplings: a mask and a network that sees the frozen sites.

    Args:
        lattice: the lattice.
        space: the real line; its components are the network's channels.
        mask: which sites move.
        parameters: numbers that the elementwise map takes for each site and component.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        activation: its activation.
        final_tanh: whether its output is bounded by one.
        final_bias: whether its last layer adds a constant.
        init_scale: factor on its last layer's initial weights; at 0 the coupling is the identity.
        dtype: of its weights; the field keeps its own.
        rng: generator of its initial weights.
    """

    symmetries: tuple[str, ...] = ("mask_translations",)

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None,
        mask: Mask,
        parameters: int,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        activation: str = "leaky_relu",
        final_tanh: bool = False,
        final_bias: bool = True,
        init_scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        space = scalar_space(space, type(self).__name__)
        super().__init__(lattice, space)
        mask.check(lattice)
        self.mask = mask
        self.n_components = space.n_components or 1
        self.net = ConvNet(
            lattice.ndim, self.n_components, parameters * self.n_components, hidden, kernel_size,
            activation, final_tanh, final_bias, init_scale, dtype, rng,
        )
        self.net.check_lattice(lattice)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError where the mask or the kernel does not fit, or the dimension is another."""
        if lattice.ndim != self.lattice.ndim:
            raise InputError(
                f"a coupling in {self.lattice.ndim} dimensions cannot run on the lattice {lattice.shape}"
            )
        # the first call comes from the base class, before there is a mask
        if "net" in self._modules:
            self.mask.check(lattice)
            self.net.check_lattice(lattice)

    @abstractmethod
    def map(self, channels: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """The map on ``[batch, n_components, *lattice]``, and its log-determinant ``[batch]``."""

    def _apply_map(self, field: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        vector = isinstance(self.space, RealLine) and self.space.n_components is not None
        channels = field.movedim(-1, 1) if vector else field.unsqueeze(1)
        mapped, log_det = self.map(channels, inverse)
        return mapped.movedim(1, -1) if vector else mapped.squeeze(1), log_det

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Move the active sites."""
        return self._apply_map(field, inverse=False)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Move them back; as cheap as forward."""
        return self._apply_map(field, inverse=True)


class AffineCoupling(Coupling):
    """phi -> exp(s) phi + t on active sites (RealNVP, 1605.08803; 2101.08176, section 3).

    Args:
        lattice: the lattice.
        space: the real line.
        mask: which sites move.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        activation: its activation.
        final_tanh: whether s and t are bounded by one, as in the tutorial.
        z2: make the map odd, phi -> -phi: s is the even and t the odd part of the network, which then
            runs twice.
        init_scale: factor on its last layer's initial weights; at 0 the coupling is the identity.
        dtype: of its weights.
        rng: generator of its initial weights.

    Example:
        >>> from lattice_lightning.models.masks import Checkerboard
        >>> flow = AffineCoupling(Lattice((4, 4)), None, Checkerboard(0))
        >>> x, log_det = flow(torch.ones(2, 4, 4, dtype=torch.float64))
        >>> x.shape, log_det.tolist()
        (torch.Size([2, 4, 4]), [0.0, 0.0])
    """

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None,
        mask: Mask,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        activation: str = "leaky_relu",
        final_tanh: bool = True,
        z2: bool = False,
        init_scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        # the odd part of the network's output does not feel a constant
        super().__init__(
            lattice, space, mask, 2, hidden, kernel_size, activation, final_tanh, not z2, init_scale, dtype,
            rng,
        )
        self.z2 = z2
        if z2:
            self.symmetries = ("mask_translations", "z2")

    def map(self, channels: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Scale and shift."""
        active = self.mask.active(self.lattice, channels.device).to(channels.dtype)
        frozen = channels * (1 - active)
        if self.z2:
            plus, minus = self.net(torch.cat([frozen, -frozen])).chunk(2)
            s, t = ((plus + minus) / 2).chunk(2, 1)[0], ((plus - minus) / 2).chunk(2, 1)[1]
        else:
            s, t = self.net(frozen).chunk(2, 1)
        # zero on frozen sites, which therefore keep every bit
        s, t = s * active, t * active
        log_det = s.flatten(1).sum(1)
        if inverse:
            return (channels - t) * torch.exp(-s), -log_det
        return channels * torch.exp(s) + t, log_det


class SplineCoupling(Coupling):
    """Rational-quadratic splines on active sites (1906.04032), the identity beyond +-interval.

    Args:
        lattice: the lattice.
        space: the real line.
        mask: which sites move.
        bins: number of bins.
        interval: half the length of the interval that the splines map onto itself.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        activation: its activation.
        init_scale: factor on its last layer's initial weights; at 0 the coupling is the identity.
        dtype: of its weights.
        rng: generator of its initial weights.
    """

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None,
        mask: Mask,
        bins: int = 8,
        interval: float = 4.0,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        activation: str = "leaky_relu",
        init_scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        if bins < 2 or not interval > 0:
            raise InputError(
                f"splines need at least 2 bins and a positive interval, got bins={bins}, "
                f"interval={interval}"
            )
        super().__init__(
            lattice, space, mask, 3 * bins - 1, hidden, kernel_size, activation, init_scale=init_scale,
            dtype=dtype, rng=rng,
        )
        self.bins, self.interval = bins, float(interval)

    def map(self, channels: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Splines of the active sites only."""
        sites = self.mask.sites(self.lattice, channels.device)
        active = self.mask.active(self.lattice, channels.device)
        parameters = self.net(channels * (~active).to(channels.dtype))
        # [batch, n_components, parameters, n_active], then the parameters last
        parameters = parameters.flatten(2).unflatten(1, (self.n_components, -1)).index_select(-1, sites)
        widths, heights, slopes = parameters.movedim(2, -1).split(
            [self.bins, self.bins, self.bins - 1], dim=-1
        )
        flat = channels.flatten(2)
        y, log_derivative = rational_quadratic(
            flat.index_select(-1, sites), widths, heights, slopes, inverse,
            left=-self.interval, right=self.interval,
        )
        mapped = flat.index_copy(-1, sites, y).reshape(channels.shape)
        return mapped, log_derivative.flatten(1).sum(1)
