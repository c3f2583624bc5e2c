"""Gauge-equivariant spectral couplings of SU(N) in two dimensions (2008.05456).

An active plaquette P goes to P' = h(P), which moves its eigenvalues as loops tell that the moved links are
not in, and its link U to P' P^dag U. Loops are told by their traces, so the map is gauge covariant; log
|det| is the sum of those of h by the Haar measure. The eigenvalues flow along a class function
(:class:`.SpectralMap`, which says why) instead of through splines of a sorted cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.flow import FlowStack
from lattice_lightning.models.gauge_masks import GaugeStripes, gauge_stripes
from lattice_lightning.models.spectral_map import SpectralMap
from lattice_lightning.models.stripe_coupling import StripeCoupling

__all__ = ["SpectralCoupling", "SpectralFlow"]


class SpectralCoupling(StripeCoupling):
    """One coupling: a spectral map of active plaquettes, steered by frozen loops.

    Symmetries: gauge transformations, translations along the stripes and by 4 across, and charge
    conjugation: coefficients of odd powers of im tr P are odd under im -> -im of what the network sees.

    Args:
        lattice: two dimensions, a multiple of 4 across the stripes.
        group: SU(N).
        mu: direction of the links that move.
        offset: of the stripes, 0 to 3.
        degree: of the class functions in re and im of tr P / N.
        rectangles: let the network see 1x2 loops too: across the stripes those of two frozen plaquettes
            and those of an active and a passive one (their common link drops out), along the stripes
            those of two frozen ones.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        n_steps: Runge-Kutta steps of the eigenvalues.
        init_scale: factor on its last layer's initial weights; at 0 the coupling is the identity.
        dtype: of its weights; the field keeps its own.
        rng: generator of its initial weights.

    Raises:
        InputError: for another group or lattice, or numbers that are not positive.
    """

    symmetries: tuple[str, ...] = ("gauge", "mask_translations", "charge_conjugation")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mu: int,
        offset: int,
        degree: int = 4,
        rectangles: bool = False,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        n_steps: int = 4,
        init_scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        spectral_map = SpectralMap(group, degree, n_steps)
        # traces of SU(2) are real
        is_real = spectral_map.group.n_colors == 2
        channels = ((3 if rectangles else 1) * (1 if is_real else 2), len(spectral_map.monomials))
        super().__init__(
            lattice, group, GaugeStripes(mu, offset), channels, hidden, kernel_size, init_scale, dtype, rng
        )
        self.spectral_map, self.rectangles, self.is_real = spectral_map, rectangles, is_real

    @property
    def group(self) -> Group:
        """The gauge group."""
        return self.spectral_map.group

    def apply_map(self, field: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Move the links of the stripes by the change of their plaquettes."""
        group, mu, nu = self.group, self.mask.mu, self.mask.nu
        links = group.pack(field)
        along, across = (self.lattice.direction_packed(links, axis) for axis in (mu, nu))
        if mu == 1:
            along, across = along.transpose(-3, -2), across.transpose(-3, -2)
        loops = _loop(group, along, across, 1, 1)
        rows = self.mask.rows(self.lattice, 0, field.device)
        theta = self._coefficients(along, across, loops).index_select(3, rows).movedim(1, 0)
        active = loops.index_select(-2, rows)
        public = group.unpack(active)
        image, log_det = self.spectral_map(public.flatten(0, 2), theta.flatten(1), inverse)
        # P' P^dag U
        rest = group.mul_hn(active, along.index_select(-2, rows))
        moved = group.unpack(group.mul(group.pack(image.reshape(public.shape)), rest))
        if mu == 1:
            moved = moved.transpose(1, 2)
        changed = field[:, mu].index_copy(1 + nu, rows, moved)
        pair = (changed, field[:, nu]) if mu == 0 else (field[:, nu], changed)
        return torch.stack(pair, 1), log_det.reshape(len(field), -1).sum(1)

    def _coefficients(self, along: Tensor, across: Tensor, loops: Tensor) -> Tensor:
        """Coefficients of the class functions, ``[batch, terms, L_mu, L_nu]``."""
        frozen = self.mask.indicator(self.lattice, (1, 2), along)[:, None]
        seen = [(loops, frozen)]
        if self.rectangles:
            # the kind of its lower plaquette: frozen with frozen, passive with active
            whole = self.mask.indicator(self.lattice, (1, 3), along)[:, None]
            seen.append((_loop(self.group, along, across, 1, 2), whole))
            seen.append((_loop(self.group, along, across, 2, 1), frozen))
        n = self.group.n_colors
        even = torch.stack([self.group.re_trace(loop) * where / n for loop, where in seen]).movedim(-1, 0)
        if self.is_real:
            theta: Tensor = self.net(even)
            return theta
        odd = torch.stack([self.group.im_trace(loop) * where / n for loop, where in seen]).movedim(-1, 0)
        both = torch.cat([torch.cat([even, odd], 1), torch.cat([even, -odd], 1)])
        theta, conjugate = self.net(both).chunk(2)
        sign = torch.tensor([(-1.0) ** b for _, b in self.spectral_map.monomials]).to(theta)
        return 0.5 * (theta + sign[:, None, None] * conjugate)


def _loop(group: Group, along: Tensor, across: Tensor, r: int, s: int) -> Tensor:
    """Loops of r steps along and s across, packed, axes (mu, nu)."""
    lower, left = along, across
    for k in range(1, r):
        lower = group.mul(lower, torch.roll(along, -k, -3))
    for k in range(1, s):
        left = group.mul(left, torch.roll(across, -k, -2))
    path = group.mul(lower, torch.roll(left, -r, -3))
    return group.mul_nh(group.mul_nh(path, torch.roll(lower, -s, -2)), left)


class SpectralFlow(FlowStack):
    """Spectral couplings in both directions.

    Args:
        lattice: two dimensions, multiples of 4.
        group: SU(N).
        n_layers: number of couplings; 8 move every link once.
        degree: of the class functions.
        rectangles: let the networks see 1x2 loops.
        hidden: hidden channels of the networks.
        kernel_size: odd extent of their kernels.
        n_steps: Runge-Kutta steps of the eigenvalues.
        init_scale: factor on the networks' last layers; 0 starts at the identity.
        rng: generator of the initial weights; None for torch's default one.

    Raises:
        InputError: for another group or lattice, or fewer than one layer.

    Example:
        >>> from lattice_lightning.groups import SUN
        >>> SpectralFlow(Lattice((8, 8)), SUN(3)).n_parameters
        14064
    """

    symmetries: tuple[str, ...] = ("gauge", "mask_translations", "charge_conjugation")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_layers: int = 8,
        degree: int = 4,
        rectangles: bool = False,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        n_steps: int = 4,
        init_scale: float = 0.0,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            [
                SpectralCoupling(
                    lattice, group, mask.mu, mask.offset, degree, rectangles, hidden, kernel_size,
                    n_steps, init_scale, rng=rng,
                )
                for mask in gauge_stripes(n_layers)
            ]
        )
