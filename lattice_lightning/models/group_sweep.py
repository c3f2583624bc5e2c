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

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.class_flow import ClassFlow
from lattice_lightning.models.flow import Flow, FlowStack
from lattice_lightning.models.plaquette_chain import ChainFlow, require_2d

__all__ = ["GroupSweep", "PlaquetteSweep"]

Mapping = Callable[[Tensor], tuple[Tensor, Tensor]]


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
        require_2d(lattice)

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
        require_2d(lattice)
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
