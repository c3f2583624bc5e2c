"""One sweep over scales, from the largest Wilson loops to the plaquettes: U(1) in two dimensions.

With Haar links the V plaquette angles of a two-dimensional torus are uniform, but for their sum, which
is zero modulo 2 pi. So the torus is cut in two, the halves again, down to single plaquettes. The flux s
of a region is split between its halves of n_a and n_b plaquettes by a map of the circle that knows s,

    B' = f(B | s; n_a, n_b),   A' = s - B',

B the flux of the second half before the flow, which is uniform and independent of s. Under the Wilson
action the split of s has the density g_{n_a}(s - B') g_{n_b}(B') / g_{n_a + n_b}(s), with g_n the density
of a sum of n independent plaquettes, Fourier coefficients (I_k(beta) / I_0(beta))^n: V - 1 maps of the
circle, in log2 V steps, that solve the theory as well as splines fit this one family. The order
matters: from plaquettes to large loops, a step would need the constraint that it meets only later
(rows of free von Mises plaquettes with a sweep over the rest keep an error of 2 (I_1/I_0)^{2 L}).

The new plaquettes fix the links up to gauge transformations: the flow moves the links of a comb, U_y(n)
with x > 0 and U_x(n) with x = 0, y > 0, by differences of plaquette angles, so it is gauge covariant.
"""

from functools import cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.flow import Flow

__all__ = ["SweepFlow"]

# share of the uniform density that bounds the steepness of a map, hence the loss of digits in it
FLOOR = 1e-5
# so that steps of 0.01 suit the parameters
PLAQUETTE_GAIN = 10.0
# points of the circle on which densities are convolved
GRID = 128

Box = tuple[int, int, int, int]


class _Level(NamedTuple):
    """Regions that are split in one step; flux of a region is sums[last] - sums[first]."""

    parent: Tensor
    """Where the regions stand in cat(A', B') of the level before."""
    first: Tensor
    middle: Tensor
    last: Tensor
    groups: list[tuple[int, int, int, int]]
    """Runs of equal sizes: first and last region + 1, n_a, n_b."""
    leaves: Tensor
    """Where single plaquettes stand in cat(A', B')."""


class _Tree(NamedTuple):
    levels: list[_Level]
    order: Tensor
    """Sites x L_y + y of the plaquettes, in an order that makes every region a run."""
    leaf_of_site: Tensor
    """For every site, its place among the leaves of all levels."""


def _size(box: Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def _halves(box: Box) -> tuple[Box, Box]:
    x0, x1, y0, y1 = box
    if x1 - x0 >= y1 - y0:
        cut = (x0 + x1 + 1) // 2
        return (x0, cut, y0, y1), (cut, x1, y0, y1)
    cut = (y0 + y1 + 1) // 2
    return (x0, x1, y0, cut), (x0, x1, cut, y1)


@cache
def _tree(shape: tuple[int, int], device: torch.device) -> _Tree:
    def index(values: list[int]) -> Tensor:
        # an inference tensor kept here could never enter a later training step
        with torch.inference_mode(False):
            return torch.tensor(values, dtype=torch.long, device=device)

    levels, order, leaf_sites = [], [0] * (shape[0] * shape[1]), []
    # a region: its box, its first plaquette in the order, its place in the level before
    regions: list[tuple[Box, int, int]] = [((0, shape[0], 0, shape[1]), 0, 0)]
    while regions:
        regions.sort(key=lambda region: [_size(half) for half in _halves(region[0])])
        following, leaves, middle = [], [], []
        sizes = [(_size(a), _size(b)) for a, b in (_halves(box) for box, _, _ in regions)]
        for k, (box, first, _) in enumerate(regions):
            middle.append(first + sizes[k][0])
            for half, start, place in zip(
                _halves(box), (first, middle[k]), (k, len(regions) + k), strict=True
            ):
                if _size(half) > 1:
                    following.append((half, start, place))
                    continue
                leaves.append(place)
                leaf_sites.append(half[0] * shape[1] + half[2])
                order[start] = leaf_sites[-1]
        starts = {pair: sizes.index(pair) for pair in sizes}
        runs = [(start, start + sizes.count(pair), *pair) for pair, start in starts.items()]
        levels.append(
            _Level(
                parent=index([place for _, _, place in regions]),
                first=index([first for _, first, _ in regions]),
                middle=index(middle),
                last=index([first + _size(box) for box, first, _ in regions]),
                groups=runs,
                leaves=index(leaves),
            )
        )
        regions = following
    leaf_of_site = sorted(range(len(leaf_sites)), key=leaf_sites.__getitem__)
    return _Tree(levels, index(order), index(leaf_of_site))


def _wrap(angle: Tensor) -> Tensor:
    return pi - torch.remainder(pi - angle, 2 * pi)


class SweepFlow(Flow):
    """The flow of U(1) plaquettes from the largest loops to the smallest, for any two extents.

    A split maps B by the quantile function of the density exp[l_{n_a}(s - B') + l_{n_b}(B')], to the
    accuracy of a rational-quadratic spline. The potential l_n(theta) of a flux through n plaquettes is
    an even Fourier series: the log density of a sum of n independent plaquettes with the trainable
    potential ``plaquette``, plus a trainable ``flux`` for every power of two (between them interpolated,
    above the largest zero). Zero parameters are the identity. The weights run on any other volume.

    The gradient of reverse KL falls by orders of magnitude while a peaked density is learned, which
    Adam's memory punishes: clip the gradient's norm (at 1).

    Symmetries: gauge transformations and charge conjugation. Not translations, rotations or reflections
    of the map, which the tree and the comb break (the density that it learns can have them).

    Args:
        lattice: two dimensions.
        group: U(1).
        bins: bins of the splines on half of the circle.
        harmonics: of the potentials, at most 63.

    Raises:
        InputError: for another group or dimension.

    Example:
        >>> from lattice_lightning.groups import U1
        >>> flow = SweepFlow(Lattice((4, 4)), U1())
        >>> links = U1().hot(flow.lattice, 2, torch.Generator().manual_seed(1))
        >>> torch.allclose(flow(links)[0], links)
        True
    """

    symmetries: tuple[str, ...] = ("gauge", "charge_conjugation")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        bins: int = 16,
        harmonics: int = 12,
    ) -> None:
        super().__init__(lattice, group)
        if group.name != "U(1)":
            raise InputError(f"the sweep over fluxes is for U(1), got {group.name}")
        if bins < 2 or not 1 <= harmonics < GRID // 2:
            raise InputError(
                f"expected bins >= 2 and 1 <= harmonics < {GRID // 2}, got {bins} and {harmonics}"
            )
        self.bins, self.harmonics = bins, harmonics
        self.plaquette = nn.Parameter(torch.zeros(harmonics, dtype=torch.float64))
        scales = (lattice.volume - 1).bit_length()
        self.flux = nn.Parameter(torch.zeros(scales, harmonics, dtype=torch.float64))

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError unless it has two dimensions."""
        if lattice.ndim != 2:
            raise InputError(f"the sweep over fluxes needs two dimensions, got {lattice.shape}")

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Split the fluxes, from the whole torus down to plaquettes."""
        return self._sweep(field, inverse=False)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Undo it; here the fluxes that the splits depend on are all known beforehand."""
        return self._sweep(field, inverse=True)

    def _sweep(self, field: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        x, y = field[:, 0], field[:, 1]
        angle = _wrap(x + self.lattice.shift(y, 0) - self.lattice.shift(x, 1) - y)
        # sites first, chains last
        old = angle.flatten(1).T
        tree = _tree(self.lattice.shape, field.device)
        sums = pad(old[tree.order].cumsum(0), (0, 0, 1, 0))
        flux, log_det, leaves = torch.zeros_like(old[:1]), torch.zeros_like(old[0]), []
        for level in tree.levels:
            flux = flux[level.parent]
            s = _wrap(sums[level.last] - sums[level.first]) if inverse else flux
            b = _wrap(sums[level.last] - sums[level.middle])
            splits = [
                self._split(b[i:j], s[i:j], n_a, n_b, inverse)
                for i, j, n_a, n_b in level.groups
            ]
            b = torch.cat([b for b, _ in splits])
            log_det = log_det + torch.cat([log for _, log in splits]).sum(0)
            flux = _wrap(torch.cat([flux - b, b]))
            leaves.append(flux[level.leaves])
        new = torch.cat(leaves)[tree.leaf_of_site]
        return self._move(field, (new - old).T.unflatten(1, self.lattice.shape)), log_det

    def _potentials(self, n: Tensor) -> Tensor:
        """Coefficients of cos k theta in the log density of a flux theta through n plaquettes."""
        order, double = self.harmonics, n.double().unsqueeze(-1)
        k = torch.arange(1, order + 1, dtype=torch.float64, device=n.device)
        angle = torch.arange(GRID, dtype=torch.float64, device=n.device) * (2 * pi / GRID)
        gain = torch.where(k == 1, PLAQUETTE_GAIN, 1 / k.square())
        potential = torch.cos(angle[:, None] * k) @ (gain * self.plaquette)
        characters = torch.fft.rfft(torch.exp(potential - potential.detach().amax())).real
        # density of a sum: the power of the characters
        density = torch.fft.irfft((characters / characters[0]) ** double, n=GRID) * GRID
        sums = torch.fft.rfft(density.clamp_min(1e-9).log()).real[..., 1 : order + 1] * (2 / GRID)
        # zeros above the largest scale
        scale = n.double().log2().clamp(max=len(self.flux))
        low = scale.floor().long()
        table = pad(self.flux, (0, 0, 0, 2))
        extra = torch.lerp(table[low], table[low + 1], (scale - low).unsqueeze(-1))
        return (sums + extra / (k.square() * double.sqrt())).to(n.dtype)

    def _split(
        self, b: Tensor, s: Tensor, n_a: int, n_b: int, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """B' and log dB'/dB, ``[regions, batch]``; or back."""
        equal = n_a == n_b
        potential_a, potential_b = self._potentials(s.new_tensor([n_a, n_b])).unsqueeze(-1)
        flat = s.reshape(1, -1)
        k = torch.arange(1, self.harmonics + 1, dtype=s.dtype, device=s.device).unsqueeze(1)
        knots = self._knots(s, equal)
        points = torch.cat([knots, 0.5 * (knots[1:] + knots[:-1])])
        # log density at x = B' - s n_b / (n_a + n_b)
        at_a, at_b = k * (flat * (n_a / (n_a + n_b))), k * (flat * (n_b / (n_a + n_b)))
        if equal:
            log_density = torch.cos(points[:, None] * k.T) @ (2 * potential_b * at_b.cos())
        else:
            even = potential_b * at_b.cos() + potential_a * at_a.cos()
            odd = potential_a * at_a.sin() - potential_b * at_b.sin()
            waves = torch.cat([torch.cos(points[:, None] * k.T), torch.sin(points[:, None] * k.T)], 1)
            log_density = waves @ torch.cat([even, odd])
        log_density = log_density.unflatten(1, s.shape)
        x = _wrap(b - s * (n_b / (n_a + n_b)))
        y, log_derivative = self._quantile(x.abs() if equal else x, knots, log_density, inverse)
        y = torch.copysign(y, x) if equal else y
        return _wrap(s * (n_b / (n_a + n_b)) + y), log_derivative

    def _knots(self, like: Tensor, half: bool) -> Tensor:
        """Knots of [0, pi] or [-pi, pi], five times as dense at 0 as on average."""
        bins = torch.arange(self.bins + 1, dtype=like.dtype, device=like.device) / self.bins
        positive = pi * bins * (0.2 + 0.8 * bins)
        return positive if half else torch.cat([-positive[1:].flip(0), positive])

    def _quantile(
        self, x: Tensor, knots: Tensor, log_density: Tensor, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """The quantile function of a density, or back its distribution function.

        A rational-quadratic spline (1906.04032, equations 4-8) whose bins in x have the probabilities
        of the given bins in y (Simpson's rule) and whose slopes at the knots are 1 / density.
        """
        n = len(knots) - 1
        length = knots[n] - knots[0]
        density = torch.exp(log_density - log_density.detach().amax(0, keepdim=True))
        heights = (knots[1:] - knots[:-1]).reshape(-1, *[1] * x.ndim)
        share = heights * (density[:n] + 4 * density[n + 1 :] + density[1 : n + 1]) / 6
        norm = share.sum(0, keepdim=True) / length
        widths = FLOOR * heights + (1 - FLOOR) * share / norm
        density = FLOOR + (1 - FLOOR) * density[: n + 1] / norm
        edges = knots[0] + pad(widths[:-1].cumsum(0), (0, 0) * x.ndim + (1, 0))
        if inverse:
            bin_index = torch.bucketize(x, knots[1:-1], right=True).unsqueeze(0)
        else:
            bin_index = (x >= edges[1:]).sum(0, keepdim=True)

        def pick(table: Tensor, offset: int = 0) -> Tensor:
            return table.gather(0, bin_index + offset).squeeze(0)

        x0, width, y0, y1 = pick(edges), pick(widths), knots[bin_index[0]], knots[bin_index[0] + 1]
        height = y1 - y0
        d0, d1, mean = 1 / pick(density), 1 / pick(density, 1), height / width
        curvature = d0 + d1 - 2 * mean
        if inverse:
            eta = x - y0
            a, b = height * (mean - d0) + eta * curvature, height * d0 - eta * curvature
            # positive by monotonicity; this form of the root does not cancel
            root = (b.square() + 4 * a * mean * eta).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
            t = (2 * mean * eta / (b + root)).clamp(0.0, 1.0)
            image = x0 + t * width
        else:
            t = ((x - x0) / width).clamp(0.0, 1.0)
            image = y0 + height * t * (mean * t + d0 * (1 - t)) / (mean + curvature * t * (1 - t))
        both = t * (1 - t)
        slope = mean.square() * (d1 * t.square() + 2 * mean * both + d0 * (1 - t).square())
        log_derivative = slope.log() - 2 * (mean + curvature * both).log()
        return image, -log_derivative if inverse else log_derivative

    def _move(self, field: Tensor, change: Tensor) -> Tensor:
        """Links of the comb that change the plaquettes ``[batch, x, y]`` by this much, modulo 2 pi."""
        teeth = pad(-change[:, 1:].flip(1).cumsum(1).flip(1), (0, 0, 1, 0))
        rows = change.sum(1)
        back = pad(-rows.cumsum(1)[:, :-1], (1, 0)).unsqueeze(1)
        back = pad(back, (0, 0, 0, self.lattice.shape[0] - 1))
        return _wrap(field + torch.stack([back, teeth], 1))
