"""Velocities of gauge fields in two dimensions: gradients of sums of Wilson loops (2212.08469)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.continuous import ContinuousFlow, VelocityBasis
from lattice_lightning.models.plaquette_potential import (
    LOOPS,
    Monomial,
    Neighbours,
    PlaquettePotential,
    Plaquettes,
    casimir,
    trace_gradients,
)

__all__ = ["LoopFlow", "LoopVelocity", "default_monomials", "default_pairs"]


def default_monomials(group: Group, degree: int) -> list[Monomial]:
    """re^a im^b up to a degree, b even; b = 0 for SU(2), whose traces are real."""
    real = group.name == "SU(2)"
    return [(d - b, b) for d in range(1, degree + 1) for b in range(0, 1 if real else d + 1, 2)]


def default_pairs(group: Group, degree: int) -> list[tuple[Monomial, Monomial]]:
    """Products of monomials of neighbours up to a joint degree, even in im together."""
    real = group.name == "SU(2)"
    single = [(d - b, b) for d in range(1, degree) for b in range(0, 1 if real else d + 1)]
    return [
        (one, other)
        for i, one in enumerate(single)
        for other in single[i:]
        if sum(one) + sum(other) <= degree and (one[1] + other[1]) % 2 == 0
    ]


class LoopVelocity(VelocityBasis):
    """v_a = sum_i theta_i d_a W_i with the potentials of :mod:`.plaquette_potential`.

    Gauge covariant, and equivariant under translations, lattice rotations, reflections and charge
    conjugation; a flow along it under reflections of non-abelian links to the order of its integrator,
    since it moves links from the left. Coefficients do not know the volume.

    Args:
        lattice: two-dimensional, extents at least 3.
        group: gauge group.
        degree: of single-plaquette terms.
        pair_degree: joint degree of products of neighbours; 0 for none.
        loops: whether also rectangles and figure eights.

    Raises:
        InputError: for another lattice or field.

    Example:
        >>> from lattice_lightning.groups import SUN
        >>> LoopVelocity(Lattice((4, 4)), SUN(3), degree=2, pair_degree=2).n_features
        7
    """

    symmetries: tuple[str, ...] = (
        "gauge", "translations", "rotations", "reflections", "charge_conjugation",
    )

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        degree: int = 3,
        pair_degree: int = 2,
        loops: bool = True,
    ) -> None:
        if not isinstance(group, Group):
            raise InputError(f"Wilson loops need a gauge group, got a field of {group.name}")
        super().__init__(lattice, group)
        if degree < 1 or pair_degree < 0:
            raise InputError(f"expected degree >= 1 and pair_degree >= 0, got {degree}, {pair_degree}")
        self.group = group
        self.potential = PlaquettePotential(
            group, default_monomials(group, degree), default_pairs(group, pair_degree)
        )
        # of U(1) they are products of neighbours
        self.loops = LOOPS if loops and group.n_colors > 1 else ()
        self.n_features = self.potential.n_features + len(self.loops)

    def check_lattice(self, lattice: Lattice) -> None:
        """Two dimensions, and no loop that meets itself around the torus."""
        if lattice.ndim != 2 or min(lattice.shape) < 3:
            raise InputError(
                f"a LoopVelocity needs a two-dimensional lattice of extents at least 3, got {lattice.shape}"
            )

    # -- geometry ------------------------------------------------------------------------------

    def plaquettes(self, links: Tensor) -> tuple[Plaquettes, list[tuple[Tensor, Tensor]]]:
        """Plaquettes of packed links, and (P, P') at one site for every direction of moving links."""
        group, lattice = self.group, self.lattice
        ux, uy = (lattice.direction_packed(links, mu) for mu in (0, 1))
        loop = group.mul_nh(group.mul(ux, lattice.shift_packed(uy, 0)), lattice.shift_packed(ux, 1))
        loop = group.mul_nh(loop, uy)
        pairs, matrices = [], []
        # U_x(n) begins P(n) and ends P(n - y); U_y(n) ends P(n) and begins P(n - x)
        for axis, transport, sign in ((1, uy, 1.0), (0, ux, -1.0)):
            carrier = lattice.shift_packed(transport, axis, -1)
            behind = group.mul(group.mul_hn(carrier, lattice.shift_packed(loop, axis, -1)), carrier)
            re, im = trace_gradients(group, loop)
            re_, im_ = trace_gradients(group, behind)
            gradients = (sign * re, sign * im, -sign * re_, -sign * im_)
            pairs.append(Neighbours(axis - lattice.ndim - 1, gradients))
            matrices.append((loop, behind))
        n = group.n_colors
        return Plaquettes(group, group.re_trace(loop) / n, group.im_trace(loop) / n, pairs, 4.0), matrices

    def moving(self, omega: Sequence[Tensor]) -> Tensor:
        """Algebra coefficients of all moving links, ``[n_generators, mu, *lattice, batch]``."""
        return torch.stack(list(omega), 1)

    def by_direction(self, omega: Tensor) -> tuple[Tensor, ...]:
        """Inverse of :meth:`moving`."""
        return omega.unbind(1)

    def link_gradient(self, links: Tensor, gradient: Tensor) -> Tensor:
        """Algebra coefficients of the moving links, of a gradient by packed links."""
        return self.group.algebra_gradient(links, gradient)

    # -- velocity ------------------------------------------------------------------------------

    def velocity(self, internal: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """sum_i theta_i d_a W_i, and its divergence ``[batch]``."""
        theta = self.by_feature(theta)
        n = self.potential.n_features
        plaquettes, matrices = self.plaquettes(internal)
        d_re, d_im, divergence = self.potential.total(plaquettes, theta[:n])
        omega = self.moving(
            [self.potential.gradient(plaquettes, pair, d_re, d_im) for pair in plaquettes.pairs]
        )
        if self.loops:
            _, laplacians = loop_values(self.group, plaquettes, matrices)
            divergence = divergence + self._weighted(theta[n:], laplacians)
            omega = omega + self._loop_gradient(internal, theta[n:])
        return omega, divergence

    def by_feature(self, theta: Tensor) -> Tensor:
        """Coefficients ``[features]`` (or ``[features, *sites]``) of the flat ``[p]``."""
        return theta

    @staticmethod
    def _weighted(theta: Tensor, values: Tensor) -> Tensor:
        """sum of theta times ``[features, *sites, batch]``."""
        shape = (len(theta), *(theta.shape[1:] or [1] * (values.ndim - 2)), 1)
        return (theta.reshape(shape) * values).flatten(0, -2).sum(0)

    def _loop_gradient(self, links: Tensor, theta: Tensor) -> Tensor:
        """Gradient of the two-plaquette loops, by one backward pass."""
        keep = torch.is_grad_enabled() and (links.requires_grad or theta.requires_grad)
        with torch.enable_grad():
            leaf = links if keep and links.requires_grad else links.detach().requires_grad_()
            plaquettes, matrices = self.plaquettes(leaf)
            values, _ = loop_values(self.group, plaquettes, matrices)
            total = self._weighted(theta if keep else theta.detach(), values)
            (gradient,) = torch.autograd.grad(total.sum(), leaf, create_graph=keep)
        return self.link_gradient(links, gradient)

    def design(self, internal: Tensor, force: Tensor) -> Tensor:
        """Laplacian of W_i - d_a W_i force_a, ``[batch, p]``."""
        plaquettes, _ = self.plaquettes(internal)
        rows = self.potential.design(plaquettes, self.by_direction(force))
        columns = [rows.flatten(1, -2).sum(1)]
        for k in range(len(self.loops)):
            unit = torch.zeros(len(self.loops), dtype=force.dtype, device=force.device)
            unit[k] = 1
            columns.append(self._loop_column(internal, force, unit).unsqueeze(0))
        return torch.cat(columns).T

    def _loop_column(self, internal: Tensor, force: Tensor, theta: Tensor) -> Tensor:
        """Laplacian - gradient . force of the two-plaquette loops with coefficients theta, ``[batch]``."""
        plaquettes, matrices = self.plaquettes(internal)
        _, laplacians = loop_values(self.group, plaquettes, matrices)
        product = self._loop_gradient(internal, theta) * force
        return self._weighted(theta, laplacians) - product.flatten(0, -2).sum(0)


class LoopFlow(ContinuousFlow):
    """Continuous flow along gradients of Wilson loops: a trained trivializing map (2212.08469).

    Args:
        lattice: two-dimensional, extents at least 3.
        group: gauge group.
        degree: of single-plaquette terms.
        pair_degree: of products of neighbours.
        loops: whether also rectangles and figure eights.
        n_nodes: nodes of the coefficients.
        n_steps: Runge-Kutta steps.
        memory: see :class:`.ContinuousFlow`.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> flow = LoopFlow(Lattice((4, 4)), SU2(), n_nodes=5, n_steps=4)
        >>> z = SU2().hot(flow.lattice, 2, torch.Generator().manual_seed(1))
        >>> bool(torch.allclose(flow(z)[0], z))
        True
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        degree: int = 3,
        pair_degree: int = 2,
        loops: bool = True,
        n_nodes: int = 17,
        n_steps: int = 16,
        memory: str = "store",
    ) -> None:
        basis = LoopVelocity(lattice, group, degree, pair_degree, loops)
        super().__init__(lattice, basis, n_nodes, n_steps, memory)


def loop_values(
    group: Group, plaquettes: Plaquettes, matrices: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Rectangles and figure eights at every plaquette, and Laplacians, ``[2, *sites, batch]`` each."""
    n, c_f = group.n_colors, casimir(group)
    values = [torch.zeros_like(plaquettes.re) for _ in range(2)]
    laplacians = [torch.zeros_like(plaquettes.re) for _ in range(2)]
    for pair, (own, behind) in zip(plaquettes.pairs, matrices, strict=True):
        sides = plaquettes.both_sides(pair)
        rectangle = pair.where_moving(group.inner(own, group.adjoint(behind))) / n
        eight = pair.where_moving(group.inner(own, behind)) / n
        re_, im_ = torch.roll(plaquettes.re, 1, pair.axis), torch.roll(plaquettes.im, 1, pair.axis)
        traces = pair.where_moving(plaquettes.re * re_ + plaquettes.im * im_)
        values = [values[0] + rectangle, values[1] + eight]
        # the shared link cancels in a rectangle and stands twice in a figure eight
        laplacians = [
            laplacians[0] - c_f * (sides - 2) * rectangle,
            laplacians[1] + eight / n - c_f * sides * eight - n * traces,
        ]
    return torch.stack(values), torch.stack(laplacians)
