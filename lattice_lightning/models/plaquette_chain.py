"""A chain of plaquettes in the last column of a two-dimensional torus, and the flow of the links inside.

What :mod:`.group_sweep` leaves, and where the torus ties plaquettes together: gradients of Wilson loops
in the chain move the links between its plaquettes, each with coefficients of its place.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from lattice_lightning.actions import Aux, GaugeAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import wilson_loops
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.continuous import ContinuousFlow
from lattice_lightning.models.loop_velocity import LoopVelocity
from lattice_lightning.models.plaquette_potential import Neighbours, Plaquettes, trace_gradients

__all__ = ["ChainAction", "ChainFlow", "ChainVelocity", "require_2d"]


class ChainAction(GaugeAction):
    """S = beta sum_y (1 - Re tr P(L_x - 1, y) / N) over the last ``n_rest`` plaquettes of the last column.

    Args:
        lattice: two-dimensional.
        group: gauge group.
        beta: inverse coupling.
        n_rest: length of the chain; L_y for the whole column.
    """

    def __init__(self, lattice: Lattice, group: FieldSpace, beta: float, n_rest: int) -> None:
        super().__init__(lattice, group)
        require_2d(lattice)
        self.beta, self.n_rest = float(beta), int(n_rest)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain."""
        loops = wilson_loops(self.space, self.lattice, links, 1, 1)[0, -1, -self.n_rest :]
        return self.beta * (len(loops) - loops.sum(0) / self.space.n_colors)


def require_2d(lattice: Lattice) -> None:
    """Raise InputError unless the lattice has two dimensions and a column that closes on itself."""
    if lattice.ndim != 2 or lattice.shape[1] < 3:
        raise InputError(
            f"a sweep needs a two-dimensional lattice with L_y of at least 3, got {lattice.shape}"
        )


class ChainVelocity(LoopVelocity):
    """Gradients of Wilson loops in a chain of plaquettes, by the links inside it.

    Internal layout: packed x-links of the last column from y = L_y - n_rest on, and y-links on their
    left and right, ``[*components, 3, sites, batch]``; only x-links between two plaquettes of the chain
    move. An open chain has the site above it, whose x-link closes the last plaquette, as one more site.

    Args:
        lattice: two-dimensional.
        group: gauge group.
        n_rest: plaquettes of the chain; at most L_y, which is the closed column.
        degree: of single-plaquette terms.
        pair_degree: joint degree of products of neighbours.
        loops: whether also rectangles and figure eights.
    """

    symmetries: tuple[str, ...] = ("gauge", "charge_conjugation")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_rest: int = 4,
        degree: int = 4,
        pair_degree: int = 4,
        loops: bool = True,
    ) -> None:
        if n_rest < 3:
            raise InputError(f"a chain needs at least 3 plaquettes, got n_rest={n_rest}")
        self.n_rest = int(n_rest)
        super().__init__(lattice, group, degree, pair_degree, loops)
        self.n_kinds = self.n_features
        if self.is_open:
            # the places in an open chain differ
            self.n_features = int(self._places().sum())

    def _places(self) -> Tensor:
        """Which terms an open chain has where, ``[features, sites]``.

        None at the site above its end, and none of neighbours at its first plaquette.
        """
        places = torch.ones(self.n_kinds, len(self.sites), dtype=torch.bool)
        places[:, -1] = False
        places[len(self.potential.monomials) :, 0] = False
        return places

    def by_feature(self, theta: Tensor) -> Tensor:
        """``[features, sites]`` of an open chain."""
        if not self.is_open:
            return theta
        places = self._places().to(theta.device)
        return theta.new_zeros(places.shape).masked_scatter(places, theta)

    def design(self, internal: Tensor, force: Tensor) -> Tensor:
        """Laplacian of W_i - d_a W_i force_a, ``[batch, p]``."""
        if not self.is_open:
            return super().design(internal, force)
        plaquettes, _ = self.plaquettes(internal)
        places, n = self._places().to(force.device), self.potential.n_features
        rows = self.potential.design(plaquettes, self.by_direction(force))
        columns = [rows[places[:n]]]
        for kind, site in places[n:].nonzero().tolist():
            unit = torch.zeros(len(self.loops), len(self.sites), dtype=force.dtype, device=force.device)
            unit[kind, site] = 1
            columns.append(self._loop_column(internal, force, unit).unsqueeze(0))
        return torch.cat(columns).T

    def check_lattice(self, lattice: Lattice) -> None:
        """Two dimensions, and an open chain stays open."""
        require_2d(lattice)
        if (self.n_rest < lattice.shape[1]) != self.is_open:
            raise InputError(
                f"the coefficients of an open chain (n_rest < L_y) and of a closed column differ: "
                f"n_rest={self.n_rest} was made for {self.lattice.shape}, got {lattice.shape}"
            )

    @property
    def is_open(self) -> bool:
        """Whether the chain is shorter than the column."""
        return self.n_rest < self.lattice.shape[1]

    @property
    def sites(self) -> list[int]:
        """y of the internal layout's sites."""
        top = self.lattice.shape[1]
        return [*range(top - self.n_rest, top), 0] if self.is_open else list(range(top))

    def start(self, field: Tensor) -> Tensor:
        """Packed chain of a public field."""
        last, sites = self.lattice.shape[0] - 1, self.sites
        parts = [field[:, 0, last, sites], field[:, 1, last, sites], field[:, 1, 0, sites]]
        return self.group.pack(torch.stack(parts, 1))

    def finish(self, internal: Tensor) -> Tensor:
        """The chain in the public layout, ``[batch, 3, sites, ...]``."""
        return self.group.unpack(internal)

    def pack_force(self, force: Tensor) -> Tensor:
        """Force by the chain's x-links, ``[n_generators, sites, batch]``; zero for links at rest."""
        packed = self.group.pack_algebra(force[:, 0, self.lattice.shape[0] - 1, self.sites])
        return packed * self.moves(packed)

    def evolve(self, internal: Tensor, omega: Tensor) -> Tensor:
        """Move the x-links."""
        x, left, right = internal.unbind(-3)
        return torch.stack([self.group.mul(self.group.exp(omega), x), left, right], -3)

    def moves(self, like: Tensor) -> Tensor:
        """One for x-links that move, ``[sites, 1]``."""
        moves = torch.ones(len(self.sites), 1, dtype=like.dtype, device=like.device)
        if self.is_open:
            moves[0] = moves[-1] = 0
        return moves

    def plaquettes(self, links: Tensor) -> tuple[Plaquettes, list[tuple[Tensor, Tensor]]]:
        """Plaquettes of the chain (of an open one also one above its end), and pairs that share a link."""
        group = self.group
        x, left, right = links.unbind(-3)
        loop = group.mul_nh(group.mul(x, right), torch.roll(x, -1, -2))
        loop = group.mul_nh(loop, left)
        carrier = torch.roll(left, 1, -2)
        behind = group.mul(group.mul_hn(carrier, torch.roll(loop, 1, -2)), carrier)
        re, im = trace_gradients(group, loop)
        re_, im_ = trace_gradients(group, behind)
        n = group.n_colors
        moves = self.moves(re)
        pair = Neighbours(-2, (re, im, -re_, -im_), moves)
        sides = moves + torch.roll(moves, -1, 0)
        plaquettes = Plaquettes(group, group.re_trace(loop) / n, group.im_trace(loop) / n, [pair], sides)
        return plaquettes, [(loop, behind)]

    def moving(self, omega: Sequence[Tensor]) -> Tensor:
        """Of the x-links alone."""
        return omega[0]

    def by_direction(self, omega: Tensor) -> tuple[Tensor, ...]:
        """One direction moves."""
        return (omega,)

    def link_gradient(self, links: Tensor, gradient: Tensor) -> Tensor:
        """Of the x-links that move."""
        full = self.group.algebra_gradient(links.select(-3, 0), gradient.select(-3, 0))
        return full * self.moves(full)


class ChainFlow(ContinuousFlow):
    """Continuous flow of the links inside a chain of plaquettes; arguments as :class:`ChainVelocity`.

    Args:
        lattice: two-dimensional.
        group: gauge group.
        n_rest: plaquettes of the chain.
        degree: of single-plaquette terms.
        pair_degree: of products of neighbours.
        loops: whether also rectangles and figure eights.
        n_nodes: nodes of the coefficients.
        n_steps: Runge-Kutta steps.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_rest: int = 4,
        degree: int = 4,
        pair_degree: int = 4,
        loops: bool = True,
        n_nodes: int = 17,
        n_steps: int = 16,
    ) -> None:
        basis = ChainVelocity(lattice, group, n_rest, degree, pair_degree, loops)
        super().__init__(lattice, basis, n_nodes, n_steps)

    def _flow(self, field: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        chain, log_det = super()._flow(field, sign)
        basis, moved = cast(ChainVelocity, self.basis), field.clone()
        moved[:, 0, self.lattice.shape[0] - 1, basis.sites] = chain[:, 0]
        return moved, log_det
