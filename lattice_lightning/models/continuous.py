"""Continuous flows: fields carried along a velocity, dx/ds = v_s(x), s from 0 to 1 (0907.5491, 1806.07366).

The velocity is linear in its coefficients, v_s = sum_i theta_i(s) b_i, over a :class:`VelocityBasis`.
log det dx/dz is the integral of the divergence. Fields move by a commutator-free Runge-Kutta scheme of
fourth order (Celledoni, Marthinsen, Owren, Future Gener. Comput. Syst. 19 (2003) 341), which stays on
the group and is the classical scheme on the real line.

Neither the inverse nor the log-determinant is that of the discretised map, only to the order of the
scheme: log q of a draw comes from its own forward pass, and :func:`step_halving` says how far it is off.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.metrics.functional import without_failures
from lattice_lightning.models.flow import Flow, FlowModel

__all__ = ["ContinuousFlow", "StepHalving", "VelocityBasis", "node_weights", "step_halving"]

MEMORY = ("store", "checkpoint", "adjoint")


class VelocityBasis(nn.Module, ABC):
    """Vector fields b_i on the fields, with their divergences, of which a velocity is a sum.

    The internal layout is what they compute in: packed links for gauge fields, the public layout for
    scalars. ``lattice`` may be set to another one that :meth:`check_lattice` allows.

    Args:
        lattice: the lattice.
        space: what the field lives on.

    Attributes:
        n_features: number p of vector fields.
    """

    n_features: int
    symmetries: tuple[str, ...] = ()

    def __init__(self, lattice: Lattice, space: FieldSpace) -> None:
        super().__init__()
        self.lattice, self.space = lattice, space
        self.check_lattice(lattice)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError when it cannot run on that lattice; by default it can on any."""

    @abstractmethod
    def velocity(self, internal: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """sum_i theta_i b_i in the internal layout of the algebra, and its divergence ``[batch]``.

        Differentiable by the field and by ``theta``, ``[p]``.
        """

    @abstractmethod
    def design(self, internal: Tensor, force: Tensor) -> Tensor:
        """div b_i - b_i . force, ``[batch, p]``, with the force dS/dw_a in the layout of the algebra."""

    def start(self, field: Tensor) -> Tensor:
        """The internal layout of a public field."""
        return self.space.pack(field) if isinstance(self.space, Group) else field

    def finish(self, internal: Tensor) -> Tensor:
        """Back to the public layout."""
        return self.space.unpack(internal) if isinstance(self.space, Group) else internal

    def pack_force(self, force: Tensor) -> Tensor:
        """The internal layout of algebra coefficients, from that of :meth:`.Action.force`."""
        return self.space.pack_algebra(force) if isinstance(self.space, Group) else force

    def evolve(self, internal: Tensor, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) U, or phi + w, in the internal layout."""
        if isinstance(self.space, Group):
            return self.space.mul(self.space.exp(omega), internal)
        return internal + omega


@lru_cache(maxsize=64)
def node_weights(n_nodes: int, n_points: int) -> Tensor:
    """Weights ``[n_points, n_nodes]`` that interpolate at points i / (n_points - 1) from nodes on [0, 1].

    Cubic Lagrange interpolation from the four nearest nodes (all, where there are fewer).

    Example:
        >>> (node_weights(3, 5) @ torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)).tolist()
        [0.0, 0.0625, 0.25, 0.5625, 1.0]
    """
    weights = torch.zeros(n_points, n_nodes, dtype=torch.float64)
    width = min(4, n_nodes)
    for row in range(n_points):
        at = row * (n_nodes - 1) / (n_points - 1)
        first = min(max(int(at) - 1, 0), n_nodes - width)
        for a in range(first, first + width):
            weight = 1.0
            for b in range(first, first + width):
                weight *= (at - b) / (a - b) if a != b else 1.0
            weights[row, a] = weight
    return weights


class ContinuousFlow(Flow):
    """x = z carried along v_s from s = 0 to 1.

    ``coefficients``, ``[n_nodes, p]``, hold theta at equidistant nodes in s and are interpolated by
    cubics; zeros are the identity. They are fitted by :class:`.ContinuityRegression` or trained like
    any weight, with memory for the graph of

    * ``store``: all steps;
    * ``checkpoint``: one step, each computed again, and the field after every step;
    * ``adjoint``: one step: the field is integrated back while the gradient is, so that the gradient is
      right to the order of the scheme. Of coefficients and field only, not of weights inside a basis.

    Args:
        lattice: the lattice.
        basis: vector fields.
        n_nodes: nodes of the coefficients, at least 2.
        n_steps: Runge-Kutta steps, of four velocities each. Where it divides or is a multiple of
            ``n_nodes - 1`` the error falls fastest.
        memory: ``store``, ``checkpoint`` or ``adjoint``.

    Raises:
        InputError: for options out of range, or a basis on another lattice.

    Example:
        >>> from lattice_lightning.models import PlaneWaves
        >>> lattice = Lattice((4, 4))
        >>> flow = ContinuousFlow(lattice, PlaneWaves(lattice), n_nodes=5, n_steps=4)
        >>> z = torch.ones(1, 4, 4, dtype=torch.float64)
        >>> bool(torch.equal(flow(z)[0], z))
        True
    """

    def __init__(
        self,
        lattice: Lattice,
        basis: VelocityBasis,
        n_nodes: int = 17,
        n_steps: int = 16,
        memory: str = "store",
    ) -> None:
        super().__init__(lattice, basis.space)
        if n_nodes < 2 or n_steps < 1:
            raise InputError(f"expected n_nodes >= 2 and n_steps >= 1, got {n_nodes}, {n_steps}")
        if memory not in MEMORY:
            raise InputError(f"unknown memory {memory!r}: expected one of {', '.join(MEMORY)}")
        if basis.lattice != lattice:
            raise InputError(f"the basis lives on {basis.lattice.shape}, the flow on {lattice.shape}")
        if memory == "adjoint" and any(p.requires_grad for p in basis.parameters()):
            raise InputError("the adjoint has no gradient of weights inside a basis: use checkpoint")
        self.basis, self.n_steps, self.memory = basis, int(n_steps), memory
        self.symmetries = basis.symmetries
        self.coefficients = nn.Parameter(torch.zeros(n_nodes, basis.n_features, dtype=torch.float64))

    @property  # type: ignore[override]
    def lattice(self) -> Lattice:
        """The lattice; setting it moves the basis along."""
        return self._lattice

    @lattice.setter
    def lattice(self, lattice: Lattice) -> None:
        self._lattice = lattice
        if "_modules" in self.__dict__ and "basis" in self._modules:
            self.basis.lattice = lattice

    @property
    def n_nodes(self) -> int:
        """Number of nodes of the coefficients."""
        return len(self.coefficients)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError where the basis does."""
        if "basis" in self._modules:
            self.basis.check_lattice(lattice)

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate from s = 0 to 1."""
        return self._flow(field, 1.0)

    def inverse(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate from s = 1 to 0: the inverse to the order of the scheme."""
        return self._flow(field, -1.0)

    def _flow(self, field: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        internal = self.basis.start(field)
        table = node_weights(self.n_nodes, 2 * self.n_steps + 1).to(self.coefficients) @ self.coefficients
        table = table.to(field.real.dtype if field.is_complex() else field.dtype)
        step = sign / self.n_steps
        table = table if sign > 0 else table.flip(0)
        if self.memory == "adjoint" and torch.is_grad_enabled():
            pair = cast(tuple[Tensor, Tensor], _Adjoint.apply(internal, table, self, step))
            return self.basis.finish(pair[0]), pair[1]
        keep = self.memory == "checkpoint" and torch.is_grad_enabled()
        log_det: Tensor | float = 0.0
        for k in range(self.n_steps):
            thetas = table[2 * k : 2 * k + 3]
            if keep:
                internal, change = checkpoint(self.step, internal, thetas, step, use_reentrant=False)
            else:
                internal, change = self.step(internal, thetas, step)
            log_det = log_det + change
        assert isinstance(log_det, Tensor)
        return self.basis.finish(internal), log_det

    def step(self, y: Tensor, thetas: Tensor, h: float) -> tuple[Tensor, Tensor]:
        """One Runge-Kutta step of the internal field, and the integral of the divergence.

        Args:
            y: internal field.
            thetas: coefficients at begin, middle and end, ``[3, p]``.
            h: step, negative backwards.
        """
        velocity, evolve = self.basis.velocity, self.basis.evolve
        k1, d1 = velocity(y, thetas[0])
        half = evolve(y, (h / 2) * k1)
        k2, d2 = velocity(half, thetas[1])
        k3, d3 = velocity(evolve(y, (h / 2) * k2), thetas[1])
        k4, d4 = velocity(evolve(half, h * (k3 - 0.5 * k1)), thetas[2])
        both = 2 * (k2 + k3)
        y = evolve(y, (h / 12) * (3 * k1 + both - k4))
        y = evolve(y, (h / 12) * (both - k1 + 3 * k4))
        return y, (h / 6) * (d1 + 2 * (d2 + d3) + d4)


class _Adjoint(torch.autograd.Function):
    """All steps with the memory of one."""

    @staticmethod
    def forward(
        ctx: Any, internal: Tensor, table: Tensor, flow: ContinuousFlow, step: float
    ) -> tuple[Tensor, Tensor]:
        ctx.flow, ctx.step = flow, step
        log_det: Tensor | float = 0.0
        for k in range(flow.n_steps):
            internal, change = flow.step(internal, table[2 * k : 2 * k + 3], step)
            log_det = log_det + change
        ctx.save_for_backward(internal, table)
        assert isinstance(log_det, Tensor)
        return internal, log_det

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        field_gradient, log_gradient = gradients
        end, table = ctx.saved_tensors
        flow, step = ctx.flow, ctx.step
        table_gradient = torch.zeros_like(table)
        for k in reversed(range(flow.n_steps)):
            thetas = table[2 * k : 2 * k + 3].detach()
            with torch.no_grad():
                begin, _ = flow.step(end, thetas.flip(0), -step)
            with torch.enable_grad():
                # the basis gets a leaf of its own at every step
                y, th = begin.requires_grad_(), thetas.clone().requires_grad_()
                pair = flow.step(y, th, step)
                found = torch.autograd.grad(pair, (y, th), (field_gradient, log_gradient))
            field_gradient = found[0]
            table_gradient[2 * k : 2 * k + 3] += found[1]
            end = begin.detach()
        return field_gradient, table_gradient, None, None


class StepHalving(NamedTuple):
    """What halving the integrator's steps changes, at fixed z (as they are minus halved).

    With an action, draws count by their weights exp(log w): one that runs away from the target, and would
    be rejected, says nothing of those that are accepted.

    Attributes:
        log_q: rms change of log q.
        log_w: standard deviation of the change of log w = -S - log q: what acceptance feels; None without
            action.
        log_z: mean change of log w: what log Z is off by; None without action.
    """

    log_q: float
    log_w: float | None
    log_z: float | None


@torch.no_grad()
def step_halving(
    model: FlowModel, n: int, rng: torch.Generator, action: Action | None = None, batch_size: int = 256
) -> StepHalving:
    """Integration error of a model's continuous flows, from n draws with steps as they are and halved.

    Args:
        model: with a :class:`ContinuousFlow`.
        n: number of draws.
        rng: generator on the model's device.
        action: target, for the change of log w, which importance sampling feels.
        batch_size: draws at a time.

    Raises:
        InputError: for a model without continuous flow.
    """
    finer = deepcopy(model.flow)
    flows = [module for module in finer.modules() if isinstance(module, ContinuousFlow)]
    if not flows or n < 2:
        raise InputError(f"step halving needs a ContinuousFlow and n >= 2, got {len(flows)} of them, n={n}")
    for flow in flows:
        flow.n_steps *= 2
    log_q, log_w, weights = [], [], []
    for first in range(0, n, batch_size):
        z = model.prior.sample(min(batch_size, n - first), rng)
        (x, log_det), (x_finer, log_det_finer) = model.flow(z), finer(z)
        log_q.append(log_det - log_det_finer)
        if action is not None:
            value = action.value(x, {})
            log_w.append(action.value(x_finer, {}) - value + log_q[-1])
            weights.append(log_det - value - model.prior.log_prob(z))
    change = torch.cat(log_q)
    if action is None:
        return StepHalving(float(change.square().mean().sqrt()), None, None)
    # a draw of no weight may well be one of no finite number
    share, shift = torch.softmax(without_failures(torch.cat(weights)), 0), torch.cat(log_w)
    counts = share > 0
    share, change, shift = share[counts], change[counts], shift[counts]
    mean = (share * shift).sum()
    spread = (share * (shift - mean).square()).sum().sqrt()
    return StepHalving(float((share * change.square()).sum().sqrt()), float(spread), float(mean))
