"""The gauge-covariant network: trainable smearing (2103.11965).

Stout type: U' = exp(Q) U, Q = 2 [Omega]_TA,
Omega = rho_p (sum of 2(d-1) staples) U^dag + rho_s or rho_t (straight loop through the link),
[M]_TA = (M - M^dag)/2 minus its trace part. Three weights a layer. The straight loop of a spatial
link winds around space (rho_s), that of a temporal one around time (rho_t).

APE type: U' = N[(1 - alpha) U + alpha/(2(d-1)) sum of staples], N the projection to SU(2)
(lecture, section 3; for SU(2) the normalisation of a quaternion).
"""

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import staple_sum, straight_loop
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.link_map import LinkMap, LinkMapStack

__all__ = ["ApeLayer", "CovNet", "StoutLayer"]


def initial_weights(shape: tuple[int, ...], scale: float, rng: torch.Generator | None) -> Tensor:
    """Normal weights of the given size, zeros for size zero."""
    if scale == 0:
        return torch.zeros(shape, dtype=torch.float64)
    return scale * torch.randn(shape, generator=rng, dtype=torch.float64)


class StoutLayer(LinkMap):
    """One stout layer with trainable plaquette and straight-loop weights.

    Args:
        lattice: the lattice.
        group: gauge group.
        straight_loops: include rho_s and rho_t.
        init_scale: standard deviation of the initial weights.
        rng: generator of the initial weights; None for torch's default one.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        straight_loops: bool = True,
        init_scale: float = 0.0,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(lattice, group)
        self.rho_plaquette = nn.Parameter(initial_weights((), init_scale, rng))
        self.rho_space: nn.Parameter | None = None
        self.rho_time: nn.Parameter | None = None
        if straight_loops:
            self.rho_space = nn.Parameter(initial_weights((), init_scale, rng))
            self.rho_time = nn.Parameter(initial_weights((), init_scale, rng))

    def forward(self, links: Tensor) -> Tensor:
        """exp(Q) U."""
        group, lattice = self.group, self.lattice
        omega = self.rho_plaquette * group.mul_nh(staple_sum(group, lattice, links), links)
        if self.rho_space is not None and self.rho_time is not None:
            time = lattice.ndim - 1
            loops = [
                (self.rho_time if mu == time else self.rho_space)
                * straight_loop(group, lattice, links, mu)
                for mu in range(lattice.ndim)
            ]
            omega = omega + torch.stack(loops, links.ndim - lattice.ndim - 2)
        return group.mul(group.exp(2 * group.project(omega)), links)


class ApeLayer(LinkMap):
    """One APE layer with trainable alpha; SU(2) and U(1), where the projection is a normalisation.

    Raises:
        InputError: for other groups (use the stout layer there).
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        init_scale: float = 0.0,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(lattice, group)
        if group.name not in {"SU(2)", "U(1)"}:
            raise InputError(
                f"APE layers project by normalisation, for SU(2) and U(1) only, got {group.name}; "
                "use stout layers"
            )
        self.alpha = nn.Parameter(initial_weights((), init_scale, rng))

    def forward(self, links: Tensor) -> Tensor:
        """Normalised sum of link and staples."""
        staples = staple_sum(self.group, self.lattice, links)
        n_staples = 2 * (self.lattice.ndim - 1)
        mixed = (1 - self.alpha) * links + self.alpha / n_staples * staples
        # a sum of group elements is a multiple r of one: Re tr[M M^dag] = r^2 N in every packed layout
        return mixed / (self.group.inner(mixed, mixed) / self.group.n_colors).sqrt()


class CovNet(LinkMapStack):
    """The covariant network: ``n_layers`` stout (or APE) layers; 2 layers have 6 parameters.

    Args:
        lattice: the lattice.
        group: gauge group.
        n_layers: number of layers.
        kind: ``stout`` or ``ape``.
        straight_loops: include rho_s and rho_t (stout).
        init_scale: standard deviation of the initial weights.
        seed: seed of the initial weights.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> net = CovNet(Lattice((4, 4, 4, 4)), SU2())
        >>> sum(p.numel() for p in net.parameters())
        6
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_layers: int = 2,
        kind: str = "stout",
        straight_loops: bool = True,
        init_scale: float = 0.0,
        seed: int = 0,
    ) -> None:
        if kind not in {"stout", "ape"}:
            raise InputError(f"unknown layer kind {kind!r}: expected stout or ape")
        if n_layers < 1:
            raise InputError(f"a covariant network needs at least one layer, got {n_layers}")
        rng = torch.Generator().manual_seed(seed)
        layers: list[LinkMap] = [
            StoutLayer(lattice, group, straight_loops, init_scale, rng)
            if kind == "stout"
            else ApeLayer(lattice, group, init_scale, rng)
            for _ in range(n_layers)
        ]
        super().__init__(layers)
