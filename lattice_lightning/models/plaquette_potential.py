"""Sums of Wilson loops around one or two plaquettes in two dimensions, with gradient and Laplacian.

A potential W = sum_i theta_i W_i of gauge-invariant functions makes the velocity v_a = d_a W, whose
divergence is the Laplacian d_a d_a W over the links that move (0907.5491, 2212.08469). With re + i im =
tr P / N of every plaquette the W_i are

* ``(a, b)``: sum of re^a im^b, b even (charge conjugation);
* ``((a, b), (c, d))``: re^a im^b of a plaquette times re^c im^d of its neighbour, symmetrised;
* ``rectangle``, ``figure_eight``: Re tr P P' / N and Re tr P P'^dag / N of neighbours carried to one site.

Laplacians follow from those of a trace, -C_F tr for every link in it, from the product rule, and where a
link stands twice (figure eight) from sum_a T_a X T_a = (tr X - X / N) / 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lattice_lightning.groups import Group

__all__ = [
    "LOOPS", "Monomial", "Neighbours", "PlaquettePotential", "Plaquettes", "casimir", "trace_gradients",
]

Monomial = tuple[int, int]
LOOPS = ("rectangle", "figure_eight")


def casimir(group: Group) -> float:
    """sum_a T_a T_a = C_F: (N^2 - 1) / 2N, or 1 for U(1)."""
    n = group.n_colors
    return 1.0 if n == 1 else (n * n - 1) / (2 * n)


def trace_gradients(group: Group, loop: Tensor) -> tuple[Tensor, Tensor]:
    """d/dw_a of Re and Im tr(exp(i w_a T_a) M) / N, ``[n_generators, ...]`` each, of packed M."""
    scale = 1.0 if group.n_colors == 1 else 1 / (2 * group.n_colors)
    re = -scale * group.project(loop)
    if group.n_component_dims == 1:
        # the trace of SU(2) is real
        return re, torch.zeros_like(re)
    return re, scale * group.project(torch.stack([-loop[1], loop[0]]))


@dataclass
class Neighbours:
    """Pairs of plaquettes that share a moving link: P(n), and P'(n) the one behind it along ``axis``.

    Attributes:
        axis: axis of the site tensors along which P' stands at n - 1.
        gradients: of re and im of P(n) and of P'(n) by the shared link, ``[n_generators, ...]`` each.
        moves: one where the shared link moves and zero elsewhere, ``[*sites, 1]``; None where all do.
    """

    axis: int
    gradients: tuple[Tensor, Tensor, Tensor, Tensor]
    moves: Tensor | None = None

    def where_moving(self, x: Tensor) -> Tensor:
        """x, with zeros where the shared link does not move."""
        return x if self.moves is None else x * self.moves

    def dots(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inner products re.re', re.im', im.re', im.im' by the shared link."""
        re, im, re_, im_ = self.gradients
        products = (re * re_).sum(0), (re * im_).sum(0), (im * re_).sum(0), (im * im_).sum(0)
        cc, ci, ic, ii = (self.where_moving(product) for product in products)
        return cc, ci, ic, ii


@dataclass
class Plaquettes:
    """All plaquettes of a field and the pairs that share a moving link.

    Attributes:
        re: Re tr P / N, ``[*sites, batch]``.
        im: Im tr P / N.
        pairs: one entry for every direction of moving links.
        sides: moving links of each plaquette, ``[*sites, 1]`` or a number.
    """

    group: Group
    re: Tensor
    im: Tensor
    pairs: list[Neighbours]
    sides: Tensor | float

    def __post_init__(self) -> None:
        """Squares of the gradients by one moving link, the same for all links of a plaquette."""
        re, im, _, _ = self.pairs[0].gradients
        self.rr, self.ri, self.ii = (re * re).sum(0), (re * im).sum(0), (im * im).sum(0)

    def both_sides(self, pair: Neighbours) -> Tensor | float:
        """Moving links of the two plaquettes of a pair, the shared one counted twice."""
        if isinstance(self.sides, Tensor):
            return self.sides + torch.roll(self.sides, 1, pair.axis)
        return 2 * self.sides


@dataclass
class _Jet:
    """A function of re and im on every plaquette with its derivatives and one link's Laplacian."""

    value: Tensor
    d_re: Tensor
    d_im: Tensor
    laplacian: Tensor


def _sum_sites(x: Tensor, n: int) -> Tensor:
    """Sum over the site axes of ``[features, *sites, batch]``, or of ``[*sites, batch]`` for n = 0."""
    return x.flatten(n, -2).sum(n)


class PlaquettePotential:
    """The functions W_i of plaquettes.

    Args:
        group: gauge group.
        monomials: single-plaquette terms.
        pairs: terms of neighbours.
    """

    def __init__(
        self,
        group: Group,
        monomials: Sequence[Monomial],
        pairs: Sequence[tuple[Monomial, Monomial]] = (),
    ) -> None:
        self.group, self.monomials, self.pairs = group, list(monomials), list(pairs)
        self.n_features = len(self.monomials) + len(self.pairs)

    def jets(self, p: Plaquettes, monomials: Sequence[Monomial]) -> _Jet:
        """Values, derivatives and Laplacians of monomials, ``[monomials, *sites, batch]``."""
        top = max((max(m) for m in monomials), default=0)
        re, im = _powers(p.re, top), _powers(p.im, top)
        zero = torch.zeros_like(p.re)

        def term(factor: int, a: int, b: int) -> Tensor:
            return factor * re[a] * im[b] if factor and a >= 0 and b >= 0 else zero

        value = torch.stack([term(1, a, b) for a, b in monomials])
        d_re = torch.stack([term(a, a - 1, b) for a, b in monomials])
        d_im = torch.stack([term(b, a, b - 1) for a, b in monomials])
        second = torch.stack(
            [
                term(a * (a - 1), a - 2, b) * p.rr + term(2 * a * b, a - 1, b - 1) * p.ri
                + term(b * (b - 1), a, b - 2) * p.ii
                for a, b in monomials
            ]
        )
        linear = torch.tensor([a + b for a, b in monomials], dtype=value.dtype, device=value.device)
        shape = (-1, *[1] * p.re.ndim)
        return _Jet(value, d_re, d_im, second - casimir(self.group) * linear.reshape(shape) * value)

    def _pair_terms(self, p: Plaquettes, one: Monomial, other: Monomial) -> list[list[Tensor]]:
        """Of one product: for every direction its Laplacian, d re, d im by P(n), and by P(n - 1)."""
        kinds = [one, other] if one != other else [one]
        jets = self.jets(p, kinds)
        total = p.sides * jets.laplacian
        found = []
        for pair in p.pairs:
            cc, ci, ic, ii = pair.dots()
            sums = [torch.zeros_like(p.re) for _ in range(5)]
            for i in range(len(kinds)):
                value, d_re, d_im, laplacian = (
                    torch.roll(x[len(kinds) - 1 - i], 1, pair.axis)
                    for x in (jets.value, jets.d_re, jets.d_im, total)
                )
                cross = jets.d_re[i] * (d_re * cc + d_im * ci) + jets.d_im[i] * (d_re * ic + d_im * ii)
                parts = (
                    pair.where_moving(total[i] * value + jets.value[i] * laplacian) + 2 * cross,
                    jets.d_re[i] * value, jets.d_im[i] * value,
                    jets.value[i] * d_re, jets.value[i] * d_im,
                )
                sums = [s + x for s, x in zip(sums, parts, strict=True)]
            found.append([sums[0], *(pair.where_moving(x) for x in sums[1:])])
        return found

    def total(self, p: Plaquettes, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of W = sum theta_i W_i: d W / d re and d W / d im on every plaquette, Laplacian ``[batch]``.

        Args:
            p: the plaquettes.
            theta: ``[features]``, or ``[features, *sites]`` with a coefficient for every plaquette.
        """
        theta = theta.reshape(len(theta), *(theta.shape[1:] or [1] * (p.re.ndim - 1)), 1)
        k = len(self.monomials)
        jet = self.jets(p, self.monomials)
        d_re, d_im = (theta[:k] * jet.d_re).sum(0), (theta[:k] * jet.d_im).sum(0)
        laplacian = p.sides * (theta[:k] * jet.laplacian).sum(0)
        for weight, (one, other) in zip(theta[k:], self.pairs, strict=True):
            for pair, parts in zip(p.pairs, self._pair_terms(p, one, other), strict=True):
                laplacian = laplacian + weight * parts[0]
                d_re = d_re + weight * parts[1] + torch.roll(weight * parts[3], -1, pair.axis)
                d_im = d_im + weight * parts[2] + torch.roll(weight * parts[4], -1, pair.axis)
        return d_re, d_im, _sum_sites(laplacian, 0)

    def design(self, p: Plaquettes, force: Sequence[Tensor]) -> Tensor:
        """Laplacian W_i - d_a W_i force_a, plaquette by plaquette, ``[features, *sites, batch]``."""
        along_re, along_im = torch.zeros_like(p.re), torch.zeros_like(p.re)
        for pair, f in zip(p.pairs, force, strict=True):
            re, im, re_, im_ = (pair.where_moving((g * f).sum(0)) for g in pair.gradients)
            along_re = along_re + re + torch.roll(re_, -1, pair.axis)
            along_im = along_im + im + torch.roll(im_, -1, pair.axis)
        jet = self.jets(p, self.monomials)
        rows = list(p.sides * jet.laplacian - jet.d_re * along_re - jet.d_im * along_im)
        for one, other in self.pairs:
            row = torch.zeros_like(p.re)
            for pair, parts in zip(p.pairs, self._pair_terms(p, one, other), strict=True):
                behind_re = torch.roll(along_re, 1, pair.axis)
                behind_im = torch.roll(along_im, 1, pair.axis)
                row = row + parts[0] - parts[1] * along_re - parts[2] * along_im
                row = row - parts[3] * behind_re - parts[4] * behind_im
            rows.append(row)
        return torch.stack(rows)

    @staticmethod
    def gradient(p: Plaquettes, pair: Neighbours, d_re: Tensor, d_im: Tensor) -> Tensor:
        """d_a W by the moving links of a direction, from the derivatives by re and im."""
        re, im, re_, im_ = pair.gradients
        back_re, back_im = torch.roll(d_re, 1, pair.axis), torch.roll(d_im, 1, pair.axis)
        return pair.where_moving(d_re * re + d_im * im + back_re * re_ + back_im * im_)


def _powers(x: Tensor, top: int) -> list[Tensor]:
    powers = [torch.ones_like(x)]
    for _ in range(top):
        powers.append(powers[-1] * x)
    return powers
