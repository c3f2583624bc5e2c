"""Paths of actions S_s, s in [0, 1], from a prior's to the target's, that a flow can follow.

The derivative of a path is a sum of columns, dS_s/ds = sum_k w_k(s) c_k(phi): what
:class:`.ContinuityRegression` fits, column by column, so that weights may be known only once all nodes
have been visited.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lattice_lightning.actions import Action, Phi4, free_kernel
from lattice_lightning.actions.scaled import MixedAction, ScaledAction, require_bosonic
from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FlowModel, GaussianFieldPrior, HaarPrior
from lattice_lightning.samplers import HMC, FourierHMC, Kernel, QuarticAction

__all__ = ["ActionPath", "LinearPath", "QuarticPath", "ScaledPath", "derivative_weights"]


@lru_cache(maxsize=16)
def derivative_weights(n_nodes: int) -> Tensor:
    """Weights ``[n_nodes, n_nodes]`` of d/ds at n equidistant nodes on [0, 1], from the five nearest ones.

    Example:
        >>> (derivative_weights(3) @ torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)).tolist()
        [0.0, 1.0, 2.0]
    """
    weights, width = torch.zeros(n_nodes, n_nodes, dtype=torch.float64), min(5, n_nodes)
    powers = torch.arange(width, dtype=torch.float64)
    for row in range(n_nodes):
        first = min(max(row - 2, 0), n_nodes - width)
        offsets = torch.arange(first - row, first - row + width, dtype=torch.float64)
        derivative = torch.zeros(width, dtype=torch.float64)
        derivative[1] = 1
        found = torch.linalg.solve(offsets[None] ** powers[:, None], derivative)
        weights[row, first : first + width] = found * (n_nodes - 1)
    return weights


class ActionPath(ABC):
    """A path of actions, visited node by node.

    Attributes:
        target: S_1.
        visits: the nodes in the order in which they are visited; what is fitted last counts.
        n_columns: number of columns.
    """

    target: Action
    visits: list[int]
    n_columns: int

    @abstractmethod
    def begin(self, n_nodes: int, model: FlowModel) -> None:
        """Start over, with equidistant nodes in s.

        Raises:
            InputError: for a model with a prior that the path does not start from.
        """

    @abstractmethod
    def start(self, n_chains: int, rng: torch.Generator) -> Tensor:
        """Fields that the chains start from, before any step."""

    @abstractmethod
    def kernel(self, node: int) -> Kernel:
        """HMC for S_s at a node."""

    @abstractmethod
    def force(self, field: Tensor, node: int) -> Tensor:
        """Force of S_s at a node, in the layout of :meth:`.Action.force`."""

    @abstractmethod
    def columns(self, field: Tensor) -> Tensor:
        """c_k, ``[batch, k]``."""

    @abstractmethod
    def leave(self, node: int, covariance: Tensor, residual: Tensor) -> Tensor:
        """The weights ``[k]`` as seen at a node; on to the next.

        Args:
            node: the node.
            covariance: of its columns, ``[k, k]``.
            residual: covariance of what no velocity explains of them.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """The weights of all nodes, ``[n_nodes, k]``, once all have been visited."""

    def finish(self, model: FlowModel) -> None:  # noqa: B027 (optional)
        """Give the model the prior that the path ends at, where it was not known beforehand."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 (optional)
        """Take up a state."""


class LinearPath(ActionPath):
    """S_s = (1 - c) S_0 + c S with c = s^power, upwards from draws of the prior.

    Args:
        target: S, bosonic.
        prior: S_0, normalised or not.
        power: exponent of c.
        hmc: options of :class:`.HMC` along the path.

    Raises:
        InputError: for pseudofermions, or an exponent below one.
    """

    n_columns = 1

    def __init__(
        self, target: Action, prior: Action, power: float = 1.0, hmc: Mapping[str, Any] | None = None
    ) -> None:
        require_bosonic(target, "a path of actions")
        if power < 1:
            raise InputError(f"a path needs power >= 1, got {power}")
        self.target, self.prior, self.power = target, prior, float(power)
        self.options = {"random_length": True, **(hmc or {})}
        self.nodes = torch.zeros(0)

    def begin(self, n_nodes: int, model: FlowModel) -> None:
        """Start over."""
        self.nodes, self._model = torch.linspace(0, 1, n_nodes, dtype=torch.float64), model
        self.visits = list(range(n_nodes))

    def start(self, n_chains: int, rng: torch.Generator) -> Tensor:
        """Draws of the prior."""
        with torch.no_grad():
            return self._model.prior.sample(n_chains, rng)

    def action(self, node: int) -> Action:
        """S_s."""
        return MixedAction(self.prior, self.target, float(self.nodes[node] ** self.power))

    def kernel(self, node: int) -> Kernel:
        """HMC."""
        return HMC(self.action(node), **self.options)

    def force(self, field: Tensor, node: int) -> Tensor:
        """Force of the mixed action."""
        return self.action(node).force(field, {})

    def columns(self, field: Tensor) -> Tensor:
        """S - S_0."""
        return (self.target.value(field, {}) - self.prior.value(field, {})).unsqueeze(1)

    def leave(self, node: int, covariance: Tensor, residual: Tensor) -> Tensor:
        """dc/ds."""
        return self.weights()[node]

    def weights(self) -> Tensor:
        """dc/ds at all nodes."""
        return (self.power * self.nodes ** (self.power - 1)).unsqueeze(1)


class ScaledPath(LinearPath):
    """S_s = c S with c = s^power, upwards from Haar-distributed links.

    Args:
        target: S, bosonic, of links.
        power: exponent of c.
        hmc: options of :class:`.HMC` along the path.

    Raises:
        InputError: for pseudofermions, or an exponent below one.
    """

    def __init__(self, target: Action, power: float = 1.0, hmc: Mapping[str, Any] | None = None) -> None:
        super().__init__(target, ScaledAction(target, 0.0), power, hmc)

    def begin(self, n_nodes: int, model: FlowModel) -> None:
        """Start over; InputError unless the prior is Haar."""
        if not isinstance(model.prior, HaarPrior):
            raise InputError(f"a scaled path starts from the Haar prior, got {type(model.prior).__name__}")
        super().begin(n_nodes, model)

    def action(self, node: int) -> Action:
        """S_s."""
        return ScaledAction(self.target, float(self.nodes[node] ** self.power))

    def columns(self, field: Tensor) -> Tensor:
        """S."""
        return self.target.value(field, {}).unsqueeze(1)


def _family(lattice: Lattice) -> Tensor:
    """Changes of K, smooth in phat^2 except at the zero mode, ``[6, *lattice]``."""
    x = lattice.phat_squared()
    smooth = [torch.ones_like(x), x, x.square() / 8, 1 / (x + 0.3), 0.1 / (x + 0.03)]
    return torch.stack([*smooth, (x == 0).to(x)])


class QuarticPath(ActionPath):
    """S_s = 1/(2 V) sum_p K_s(p) |phi(p)|^2 + s^power lam sum phi^4, back from the thermalised target.

    dK_s/ds, in a family of smooth functions of phat^2, is chosen at every node such that the velocity can
    follow: it minimises the variance of dS_s/ds that no velocity explains, plus ``stiffness`` times its
    variance. The second term alone would keep the two-point function what it is in the target, but
    noise in this choice at low momenta costs more than the truncation of the velocity: it raised the
    unexplained variance at L = 32, lam = 4.572 from 0.24 to 1.0. K_0 becomes the kernel of the
    :class:`.GaussianFieldPrior`.

    Args:
        target: phi^4 in the symmetric phase (or a finite volume that HMC tunnels in).
        power: exponent; above one, nodes are dense near s = 0, where the coupling acts fastest.
        mass2: of the momenta, M(p) = 2 (mass2 + phat^2).
        n_steps: leapfrog steps of a trajectory.
        step_size: of leapfrog, where a mode with K = M has frequency 1.
        stiffness: weight of keeping the two-point function, positive.

    Raises:
        InputError: for another target, or options out of range.
    """

    target: Phi4

    def __init__(
        self,
        target: Action,
        power: float = 2.0,
        mass2: float = 0.1,
        n_steps: int = 8,
        step_size: float = 0.12,
        stiffness: float = 0.03,
    ) -> None:
        if not isinstance(target, Phi4) or target.lam == 0:
            raise InputError(f"a quartic path leads to Phi4 with lam > 0, got {type(target).__name__}")
        if power < 1 or not mass2 > 0 or not stiffness > 0:
            raise InputError(
                f"expected power >= 1, mass2 > 0 and stiffness > 0, got {power}, {mass2}, {stiffness}"
            )
        self.stiffness = float(stiffness)
        self.target, self.power, self.mass2 = target, float(power), float(mass2)
        self.lattice = target.lattice
        self.n_steps, self.step_size = int(n_steps), float(step_size)
        self.shifts, self.responses = torch.zeros(0), torch.zeros(0)
        self.kernel_one, self.family = free_kernel(self.lattice, target.m2), _family(self.lattice)
        self.n_columns = 1 + len(self.family)
        self.mass = free_kernel(self.lattice, self.mass2)
        self._modes = QuarticAction(self.lattice, self.mass, 0.0)

    def begin(self, n_nodes: int, model: FlowModel) -> None:
        """Start over; InputError unless the prior has a free kernel."""
        if not isinstance(model.prior, GaussianFieldPrior):
            kind = type(model.prior).__name__
            raise InputError(f"a quartic path ends at a GaussianFieldPrior, got {kind}")
        if n_nodes < 3:
            raise InputError(f"a quartic path needs at least 3 nodes, got {n_nodes}")
        self.nodes = torch.linspace(0, 1, n_nodes, dtype=torch.float64)
        self.shifts = torch.zeros(n_nodes, len(self.family), dtype=torch.float64)
        self.responses = torch.zeros_like(self.shifts)
        # the second node once more, with K where the slopes at both ends of the first step lead
        self.visits = [n_nodes - 1, *range(n_nodes - 2, -1, -1)]
        self.visits.insert(1, n_nodes - 2)

    def start(self, n_chains: int, rng: torch.Generator) -> Tensor:
        """A free field."""
        noise = self.target.space.hot(self.lattice, n_chains, rng)
        half = QuarticAction(self.lattice, free_kernel(self.lattice, 0.5), 0.0)
        return half.field(half.modes(noise) / half.half.to(noise).sqrt())

    def action(self, node: int) -> QuarticAction:
        """S_s."""
        kernel = self.kernel_one + torch.tensordot(self.shifts[node], self.family, 1)
        coupling = self.target.lam * float(self.nodes[node] ** self.power)
        if node == 0 and not bool((kernel > 0).all()):
            raise InputError(
                f"the path leads to a Gaussian kernel with K(p) = {float(kernel.min()):.3g}: use more "
                "nodes or measurements (n_nodes, n_chains, n_measure), or more thermalisation"
            )
        return QuarticAction(self.lattice, kernel, coupling)

    def kernel(self, node: int) -> FourierHMC:
        """HMC with Fourier acceleration."""
        return FourierHMC(self.action(node), self.mass, self.n_steps, self.step_size)

    def force(self, field: Tensor, node: int) -> Tensor:
        """Force of S_s."""
        return self.action(node).force(field, {})

    def columns(self, field: Tensor) -> Tensor:
        """lam sum phi^4, then the quadratic terms of the family."""
        modes, lattice = self._modes.modes(field), self.lattice
        half = self.family[..., : lattice.shape[-1] // 2 + 1].to(field)
        quadratic = torch.stack([self._modes.quadratic(modes, kernel) for kernel in half], 1)
        quartic = self.target.lam * field.square().square().flatten(1).sum(1, keepdim=True)
        return torch.cat([quartic, quadratic], 1)

    def leave(self, node: int, covariance: Tensor, residual: Tensor) -> Tensor:
        """Weights with K' of this node; K of the next one by extrapolation."""
        covariance, residual = (t.detach().to("cpu", torch.float64) for t in (covariance, residual))
        scale = covariance.diagonal().sqrt()
        covariance, residual = (t / scale / scale[:, None] for t in (covariance, residual))
        # the same combination of both, so that where all is explained the two-point function stays
        joint = residual + self.stiffness * covariance
        eye = torch.eye(len(self.family), dtype=torch.float64)
        regular = joint[1:, 1:] + 1e-6 * self.stiffness * eye
        response = torch.linalg.solve(regular, joint[1:, 0]) * scale[0] / scale[1:]
        first_time, last = not bool(self.responses[node].any()), len(self.nodes) - 1
        self.responses[node] = -response
        time = self.nodes**self.power
        if node == last - 1 and first_time:
            mean = 0.5 * (self.responses[last] + self.responses[node])
            self.shifts[node] = self.shifts[last] - (time[last] - time[node]) * mean
        elif node > 0:
            # in s^power, in which K changes nearly evenly: Euler, then Adams and Bashforth
            step, mean = time[node] - time[node - 1], self.responses[node]
            if node < last:
                bend = (self.responses[node] - self.responses[node + 1]) / (time[node + 1] - time[node])
                mean = mean + 0.5 * step * bend
            self.shifts[node - 1] = self.shifts[node] - step * mean
        speed = self.power * self.nodes[node] ** (self.power - 1)
        return speed * torch.cat([torch.ones(1, dtype=torch.float64), -response])

    def weights(self) -> Tensor:
        """Coupling and kernel of the path as it was walked, differentiated by s."""
        speeds = self.power * self.nodes ** (self.power - 1)
        return torch.cat([speeds[:, None], derivative_weights(len(self.nodes)) @ self.shifts], 1)

    def finish(self, model: FlowModel) -> None:
        """Set the prior's kernel to K_0."""
        assert isinstance(model.prior, GaussianFieldPrior)
        model.prior.set_kernel(self.action(0).kernel)

    def state(self) -> dict[str, Tensor]:
        """Kernels so far."""
        return {"shifts": self.shifts, "responses": self.responses}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up kernels."""
        self.shifts, self.responses = state["shifts"].clone(), state["responses"].clone()
