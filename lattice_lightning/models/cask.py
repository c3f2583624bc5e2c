"""CASK: covariant attention with stout kernel (2501.16955; lecture, section 4).

One block:
1. U^Q, U^K, U^V: plaquette-stout links of U with weights rho^Q, rho^K, rho^V.
2. attention, gauge invariant, for every link, signed direction +-nu and length s:
   a~ = Re tr[U^Q_mu V(U^K)^dag] - Re tr[U_mu V(U)^dag],  V the extended staple of 2s + 1 links,
   a = tan((pi/4) a~/(N + 0.01)).
3. C_mu = sum_{+-nu, s} a V(U^V),  Omega = C U^dag,  U' = exp(k [Omega]_TA) U.

The published step 3 closes the loops with U^V instead: Omega = C (U^V)^dag (``closing="value"``). That
map is gauge covariant, but not its own mirror image: under x_mu -> -x_mu the exponent comes back
conjugated by U^V where covariance needs U, so that reflections and proper rotations hold only for
U(1) or at rho^V = 0. The action that it should imitate has these symmetries, hence our default.

At zero weights a~ vanishes and the block is the identity. Heads add their C.

Two additions of ours, off by default: ``offsets`` b_s, C = sum (a + b_s) V(U^V), so that staples of
every length also smear without attention (a is of second order in small weights, b_s V of first), and
``straight_loops``, Omega + rho_s or rho_t (straight loop through the link), as in the covariant network.

The activation is not a softmax; tan grows without bound near 2N, so a~ passes through a tanh first
(same slope at zero), which keeps forces finite in molecular dynamics.
"""

from math import pi

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import extended_staples, staple_sum, straight_loop
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.covnet import StoutLayer, initial_weights
from lattice_lightning.models.link_map import LinkMap, LinkMapStack

__all__ = ["OUTPUT_STRENGTH", "Cask", "CaskBlock"]

#: k in U' = exp(k [Omega]_TA) U
OUTPUT_STRENGTH = 1.0


class CaskBlock(LinkMap):
    """One attention block with 3 weights a head (4 with the output stout).

    Args:
        lattice: every extent larger than ``s_max``.
        group: gauge group.
        n_heads: number of heads; equal heads stay equal, so start from random weights.
        s_max: longest staple, 2 s_max + 1 links.
        closing: what closes the loops of step 3, ``link`` (U, keeps reflections) or ``value`` (U^V, as
            published).
        output_stout: the public Julia layer's variant: the attention builds
            U^A = exp(k [Omega]_TA) U, and U' = exp(rho^O [2 staples(U^A) U^dag]_TA) U with a fourth
            weight rho^O.
        length_weights: one more trainable factor for each s, starting at one.
        bounded: pass a~ through tanh before the tangent.
        init_scale: standard deviation of the initial weights.
        rng: generator of the initial weights.
        offsets: b_s, one trainable weight for each head and length, starting at zero.
        straight_loops: rho_s and rho_t, starting at zero.

    Raises:
        InputError: when a staple is as long as the lattice, there is no head, or an unknown closing.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_heads: int = 1,
        s_max: int = 3,
        output_stout: bool = False,
        length_weights: bool = False,
        bounded: bool = True,
        init_scale: float = 0.02,
        rng: torch.Generator | None = None,
        closing: str = "link",
        offsets: bool = False,
        straight_loops: bool = False,
    ) -> None:
        super().__init__(lattice, group)
        if not 1 <= s_max < min(lattice.shape):
            raise InputError(
                f"staples of s_max={s_max} steps do not fit the lattice {lattice.shape}: use s_max "
                f"from 1 to {min(lattice.shape) - 1}"
            )
        if n_heads < 1:
            raise InputError(f"a CASK block needs at least one head, got n_heads={n_heads}")
        if closing not in {"link", "value"}:
            raise InputError(f"unknown closing {closing!r}: expected link or value")
        self.n_heads, self.s_max, self.bounded, self.closing = n_heads, s_max, bounded, closing
        self.rho = nn.Parameter(initial_weights((3, n_heads), init_scale, rng))
        self.length_weight = (
            nn.Parameter(torch.ones(n_heads, s_max, dtype=torch.float64)) if length_weights else None
        )
        self.rho_out = nn.Parameter(initial_weights((), init_scale, rng)) if output_stout else None
        self.offset = (
            nn.Parameter(torch.zeros(n_heads, s_max, dtype=torch.float64)) if offsets else None
        )
        # rho_s, rho_t
        self.rho_straight = nn.Parameter(torch.zeros(2, dtype=torch.float64)) if straight_loops else None

    def reset_to_identity(self) -> None:
        """Set every rho to zero and every length weight to one; with both zero no gradient is left."""
        super().reset_to_identity()
        if self.length_weight is not None:
            with torch.no_grad():
                self.length_weight.fill_(1)

    def _activation(self, attention: Tensor) -> Tensor:
        x = attention / (self.group.n_colors + 0.01)
        return torch.tan(pi / 4 * (torch.tanh(x) if self.bounded else x))

    def forward(self, links: Tensor) -> Tensor:
        """exp(k [Omega]_TA) U."""
        group, lattice, heads = self.group, self.lattice, self.n_heads
        axis = group.n_component_dims
        stout = group.project(group.mul_nh(staple_sum(group, lattice, links), links))
        # [role * head, mu, *lattice, batch], the last axis one where all chains share the weights
        rho = self.rho.reshape(3 * heads, *[1] * (1 + lattice.ndim), -1)
        exponent = 2 * rho * stout.unsqueeze(1)
        original = links.unsqueeze(axis)
        mapped = group.mul(group.exp(exponent), original.expand(self._expanded(links, 3 * heads)))
        query, key, value = mapped.split(heads, axis)
        # K and V of all heads, and U once, share every transport
        transported = torch.cat([key, value, original], axis)
        total: list[Tensor | None] = [None] * lattice.ndim
        mu_axis = axis + 1
        queries, bare = query.unbind(mu_axis), original.unbind(mu_axis)
        for nu in range(lattice.ndim):
            directions = [mu for mu in range(lattice.ndim) if mu != nu]
            q = torch.stack([queries[mu] for mu in directions], mu_axis)
            u = torch.stack([bare[mu] for mu in directions], mu_axis)
            for sign in (1, -1):
                staples = extended_staples(group, lattice, transported, nu, sign, self.s_max)
                for s, (staple, _) in enumerate(staples):
                    v_key, v_value, v_plain = staple.split([heads, heads, 1], axis)
                    attention = self._activation(group.inner(q, v_key) - group.inner(u, v_plain))
                    if self.length_weight is not None:
                        attention = attention * self._of_length(self.length_weight, s)
                    if self.offset is not None:
                        attention = attention + self._of_length(self.offset, s)
                    term = attention * v_value
                    for mu, part in zip(directions, term.unbind(mu_axis), strict=True):
                        previous = total[mu]
                        total[mu] = part if previous is None else previous + part
        summed = torch.stack([t for t in total if t is not None], mu_axis)
        if self.closing == "value":
            omega = group.mul_nh(summed, value).sum(axis)
        else:
            omega = group.mul_nh(summed.sum(axis), links)
        if self.rho_straight is not None:
            last = lattice.ndim - 1
            loops = [
                self.rho_straight[int(mu == last)] * straight_loop(group, lattice, links, mu)
                for mu in range(lattice.ndim)
            ]
            omega = omega + torch.stack(loops, axis)
        result = group.mul(group.exp(OUTPUT_STRENGTH * group.project(omega)), links)
        if self.rho_out is None:
            return result
        output = group.mul_nh(staple_sum(group, lattice, result), links)
        return group.mul(group.exp(2 * self.rho_out * group.project(output)), links)

    def _of_length(self, weights: Tensor, s: int) -> Tensor:
        """Weights of length s + 1, ``[heads, 1 (mu), 1 ... (lattice), batch or 1]``."""
        return weights[:, s].reshape(self.n_heads, *[1] * (1 + self.lattice.ndim), -1)

    def _expanded(self, links: Tensor, copies: int) -> tuple[int, ...]:
        axis = self.group.n_component_dims
        return (*links.shape[:axis], copies, *links.shape[axis:])


class Cask(LinkMapStack):
    """A stack of CASK blocks, optionally on top of stout layers.

    Args:
        lattice: every extent larger than ``s_max``.
        group: gauge group.
        n_blocks: number of attention blocks.
        n_heads: heads a block.
        s_max: longest staple.
        output_stout: fourth stout of the public Julia layer.
        length_weights: trainable factor for each staple length.
        covnet_layers: stout layers (with straight loops) before the blocks.
        bounded: smooth bound on the attention.
        init_scale: standard deviation of the initial weights.
        seed: seed of the initial weights.
        closing: ``link``, or ``value`` as published.
        offsets: smearing by every length of staple beside the attention.
        straight_loops: straight loops through the link in every block.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> net = Cask(Lattice((4, 4)), SU2(), n_blocks=1, s_max=2)
        >>> sum(p.numel() for p in net.parameters())
        3
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_blocks: int = 1,
        n_heads: int = 1,
        s_max: int = 3,
        output_stout: bool = False,
        length_weights: bool = False,
        covnet_layers: int = 0,
        bounded: bool = True,
        init_scale: float = 0.02,
        seed: int = 0,
        closing: str = "link",
        offsets: bool = False,
        straight_loops: bool = False,
    ) -> None:
        if n_blocks < 1:
            raise InputError(f"CASK needs at least one block, got n_blocks={n_blocks}")
        rng = torch.Generator().manual_seed(seed)
        layers: list[LinkMap] = [
            StoutLayer(lattice, group, init_scale=init_scale, rng=rng) for _ in range(covnet_layers)
        ]
        for _ in range(n_blocks):
            layers.append(
                CaskBlock(
                    lattice, group, n_heads, s_max, output_stout, length_weights, bounded,
                    init_scale, rng, closing, offsets, straight_loops,
                )
            )
        super().__init__(layers)
