"""A sweep over a two-dimensional gauge field: exact but for the constraint of the torus.

With Haar-distributed links all plaquettes but one are independent. So the link between P(k, y) and
P(k + 1, y), changed such that P(k, y) goes through the trivializing map of a single plaquette
(:class:`.ClassFlow`), gives P(k, y) its final distribution and leaves P(k + 1, y) Haar-distributed: after
L_x - 1 such steps, all rows at once, every column but the last has the target's distribution. The last
column is swept in the same way up to a chain of ``n_rest`` plaquettes, whose product the torus fixes. A
continuous flow of the links inside the chain, by gradients of Wilson loops, distributes them. What the
product's distribution lacks falls with the n_rest-th power of the mean plaquette, and what is not exact
belongs to n_rest plaquettes in any volume. Special to two dimensions.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from lattice_lightning.actions import Aux, GaugeAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import wilson_loops
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.class_flow import ClassFlow
from lattice_lightning.models.continuous import ContinuousFlow
from lattice_lightning.models.flow import Flow, FlowStack
from lattice_lightning.models.loop_velocity import LoopVelocity
from lattice_lightning.models.plaquette_potential import Neighbours, Plaquettes, trace_gradients

__all__ = ["ChainAction", "ChainFlow", "ChainVelocity", "GroupSweep", "PlaquetteSweep"]

Mapping = Callable[[Tensor], tuple[Tensor, Tensor]]


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
        _require_2d(lattice)
        self.beta, self.n_rest = float(beta), int(n_rest)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S for each chain."""
        loops = wilson_loops(self.space, self.lattice, links, 1, 1)[0, -1, -self.n_rest :]
        return self.beta * (len(loops) - loops.sum(0) / self.space.n_colors)


def _require_2d(lattice: Lattice) -> None:
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
        _require_2d(lattice)
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


class PlaquetteSweep(Flow):
    """Plaquettes one after another through the map of a single plaquette, up to the last ``n_rest``.

    The map has fixed coefficients, fitted to a coupling in closed form: nothing is trained by gradient.

    Args:
        lattice: two-dimensional.
        group: gauge group.
        n_rest: plaquettes of the last column that are left out.
        degree: of the class functions.
        n_nodes: nodes of their coefficients.
        n_steps: Runge-Kutta steps; by default 16 for U(1), whose plaquettes end up closest to one, and 8
            for SU(N). The log-determinant knows of them, so that too few only widen weights.
    """

    symmetries = ("gauge", "charge_conjugation")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_rest: int = 4,
        degree: int = 6,
        n_nodes: int = 33,
        n_steps: int | None = None,
    ) -> None:
        if not isinstance(group, Group):
            raise InputError(f"a sweep maps gauge links, got a field of {group.name}")
        super().__init__(lattice, group)
        if n_rest < 1:
            raise InputError(f"the torus fixes one plaquette, so a sweep leaves n_rest >= 1, got {n_rest}")
        self.group, self.n_rest = group, int(n_rest)
        n_steps = n_steps or (16 if group.n_colors == 1 else 8)
        self.plaquette = ClassFlow(group, degree, n_nodes, n_steps).requires_grad_(False)

    def check_lattice(self, lattice: Lattice) -> None:
        """Two dimensions."""
        _require_2d(lattice)

    def fit(self, beta: float) -> float:
        """Fit the map to the Wilson action at beta; see :meth:`.ClassFlow.fit`."""
        return self.plaquette.fit(beta)

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Rows first, then the last column."""
        return self._sweep(field, self.plaquette.forward, back=False)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """The last column first, from its end to its begin, then rows."""
        return self._sweep(field, self.plaquette.inverse, back=True)

    def _sweep(self, field: Tensor, mapping: Mapping, back: bool) -> tuple[Tensor, Tensor]:
        lx, ly = self.lattice.shape
        x, y = list(field[:, 0].unbind(1)), list(field[:, 1].unbind(1))
        real = field.real.dtype if field.is_complex() else field.dtype
        total = torch.zeros(len(field), dtype=real, device=field.device)

        def rows(total: Tensor) -> Tensor:
            for k in range(lx - 2, -1, -1) if back else range(lx - 1):
                # the plaquette as a loop that begins with the link that moves
                moved, log_det = self._move(
                    mapping, y[k + 1], (torch.roll(x[k], -1, 1), -1), (y[k], -1), (x[k], 1)
                )
                y[k + 1] = moved
                total = total + log_det.sum(1)
            return total

        def column(total: Tensor) -> Tensor:
            links, left, right = list(x[-1].unbind(1)), y[-1].unbind(1), y[0].unbind(1)
            steps = range(max(ly - self.n_rest, 0))
            for k in reversed(steps) if back else steps:
                moved, log_det = self._move(
                    mapping, links[k + 1], (right[k], -1), (links[k], -1), (left[k], 1)
                )
                links[k + 1] = moved
                total = total + log_det
            x[-1] = torch.stack(links, 1)
            return total

        total = rows(column(total)) if back else column(rows(total))
        return torch.stack([torch.stack(x, 1), torch.stack(y, 1)], 1), total

    def _move(self, mapping: Mapping, link: Tensor, *rest: tuple[Tensor, int]) -> tuple[Tensor, Tensor]:
        """The link after its loop, completed by ``rest``, went through the map; and log det."""
        if self.group.n_colors == 1:
            loop = link + sum((sign * other for other, sign in rest), torch.zeros_like(link))
            moved, log_det = mapping(self.group.reunitarise(loop))
            return self.group.reunitarise(link + moved - loop), log_det
        loop = link
        for other, sign in rest:
            loop = loop @ (other if sign > 0 else other.mH)
        moved, log_det = mapping(loop)
        return moved @ loop.mH @ link, log_det


class GroupSweep(FlowStack):
    """Sweep over plaquettes, then the flow of the chain that is left.

    Trained by :class:`.SweepRegression`, or after it by reverse KL (the chain's coefficients).

    Args:
        lattice: two-dimensional.
        group: gauge group.
        n_rest: plaquettes of the chain that is left.
        class_degree: of the class functions of the sweep.
        degree: of the chain's single-plaquette terms.
        pair_degree: of the chain's products of neighbours.
        loops: whether the chain also has rectangles and figure eights.
        n_nodes: nodes of the chain's coefficients.
        n_steps: Runge-Kutta steps of the chain.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> sweep = GroupSweep(lattice, group, n_rest=3)
        >>> links = group.hot(lattice, 2, torch.Generator().manual_seed(1))
        >>> bool(torch.allclose(sweep(links)[0], links))
        True
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_rest: int = 4,
        class_degree: int = 6,
        degree: int = 4,
        pair_degree: int = 4,
        loops: bool = True,
        n_nodes: int = 17,
        n_steps: int = 16,
    ) -> None:
        _require_2d(lattice)
        sweep = PlaquetteSweep(lattice, group, n_rest, class_degree)
        chain = ChainFlow(lattice, group, n_rest, degree, pair_degree, loops, n_nodes, n_steps)
        super().__init__([sweep, chain])

    @property
    def sweep(self) -> PlaquetteSweep:
        """The sweep."""
        return cast(PlaquetteSweep, self.layers[0])

    @property
    def chain(self) -> ChainFlow:
        """The flow of the chain that the sweep leaves."""
        return cast(ChainFlow, self.layers[1])
