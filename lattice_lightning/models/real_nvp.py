"""Recipes of scalar flows: stacks of couplings with alternating masks."""

from collections.abc import Sequence

import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.coupling import AffineCoupling, SplineCoupling
from lattice_lightning.models.flow import Flow, FlowStack
from lattice_lightning.models.fourier_flow import Scaling
from lattice_lightning.models.masks import alternating_masks

__all__ = ["RealNVP", "SplineFlow"]


class RealNVP(FlowStack):
    """Affine couplings; the defaults are the phi^4 flow of the tutorial 2101.08176.

    Its translations are those that all its masks share.

    Args:
        lattice: the lattice.
        space: the real line.
        n_layers: number of couplings.
        hidden: hidden channels of their networks.
        kernel_size: odd extent of the kernels.
        mask: ``checkerboard``, ``stripes`` or ``mixed``.
        activation: of the networks.
        final_tanh: whether s and t are bounded by one.
        z2: make every coupling odd under phi -> -phi.
        scale: start of one trainable factor on the whole field, before the couplings; None for no factor.
        init_scale: factor on the networks' last layers; 0 starts at the identity, 1 as the tutorial.
        rng: generator of the initial weights; None for torch's default one.

    Example:
        >>> RealNVP(Lattice((8, 8))).n_parameters
        12960
    """

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None = None,
        n_layers: int = 16,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        mask: str = "checkerboard",
        activation: str = "leaky_relu",
        final_tanh: bool = True,
        z2: bool = False,
        scale: float | None = None,
        init_scale: float = 1.0,
        rng: torch.Generator | None = None,
    ) -> None:
        _check_layers(n_layers)
        layers: list[Flow] = [] if scale is None else [Scaling(lattice, space, scale)]
        for site_mask in alternating_masks(mask, n_layers, lattice.ndim):
            layers.append(
                AffineCoupling(
                    lattice, space, site_mask, hidden, kernel_size, activation, final_tanh, z2,
                    init_scale, rng=rng,
                )
            )
        super().__init__(layers)
        self.symmetries = ("mask_translations", "z2") if z2 else ("mask_translations",)


class SplineFlow(FlowStack):
    """Rational-quadratic spline couplings, then one trainable factor on the field.

    The factor should start near or below the width of the target: fields beyond the interval keep the
    prior's tails, and where the action grows as phi^4 tails that are too wide dominate the loss.

    Args:
        lattice: the lattice.
        space: the real line.
        n_layers: number of couplings.
        bins: bins of the splines.
        interval: half the interval that they act on, in widths of the prior.
        hidden: hidden channels of the networks.
        kernel_size: odd extent of the kernels.
        mask: ``checkerboard``, ``stripes`` or ``mixed``.
        activation: of the networks.
        scale: start of one trainable factor on the whole field, after the couplings; None for no factor.
        init_scale: factor on the networks' last layers; 0 starts at the identity.
        rng: generator of the initial weights; None for torch's default one.

    Example:
        >>> flow = SplineFlow(Lattice((4, 4)), n_layers=2, scale=None, init_scale=0.0)
        >>> z = torch.ones(1, 4, 4)
        >>> bool(torch.allclose(flow(z)[0], z))
        True
    """

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None = None,
        n_layers: int = 8,
        bins: int = 8,
        interval: float = 4.0,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        mask: str = "checkerboard",
        activation: str = "leaky_relu",
        scale: float | None = 0.5,
        init_scale: float = 0.1,
        rng: torch.Generator | None = None,
    ) -> None:
        _check_layers(n_layers)
        layers: list[Flow] = [
            SplineCoupling(
                lattice, space, site_mask, bins, interval, hidden, kernel_size, activation, init_scale,
                rng=rng,
            )
            for site_mask in alternating_masks(mask, n_layers, lattice.ndim)
        ]
        # splines live in the units of the prior, so the field takes its width at the end
        super().__init__(layers if scale is None else [*layers, Scaling(lattice, space, scale)])
        self.symmetries = ("mask_translations",)


def _check_layers(n_layers: int) -> None:
    if n_layers < 2:
        raise InputError(f"couplings move half of the sites, so a flow needs at least 2, got {n_layers}")
