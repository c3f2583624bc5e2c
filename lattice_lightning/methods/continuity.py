"""Training a continuous flow by linear regression of the continuity equation.

Along a path of actions S_s the density exp(-S_s) / Z_s is carried along exactly by a velocity with

    div v_s - v_s . grad S_s = dS_s/ds - <dS_s/ds>

(0907.5491; as a loss in 2405.06672, 2410.02711). The left side is linear in the coefficients of a
:class:`.VelocityBasis`, so at every node in s they follow in closed form by least squares over fields
sampled by HMC at S_s. Each training step is one node; chains go on from node to node. No gradient, no
draw from the flow. The residual variance of dS_s/ds is the rate at which log weights spread.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import Group
from lattice_lightning.methods.action_path import ActionPath, QuarticPath, ScaledPath
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.models import ContinuousFlow, FlowModel, PlaneWaves
from lattice_lightning.parallel import sum_over_ranks
from lattice_lightning.samplers import FailureCount, State

__all__ = ["ContinuityRegression"]


def _idle(parameters: Iterable[Tensor]) -> Optimizer:
    return SGD(parameters, lr=0.0)


class ContinuityRegression(FlowMethod):
    """Fits the coefficients of a :class:`.ContinuousFlow`, one node a step.

    Logs ``loss`` (residual variance of dS_s/ds, corrected for the fitted degrees of freedom),
    ``variance`` (before the fit), ``path_acceptance`` of HMC along it and ``node``; with the last node
    ``rate``, the mean loss over all nodes for the path as it turned out.

    Args:
        model: with a :class:`.ContinuousFlow` and a prior that the path starts from; fitted in place.
        target: bosonic action.
        path: path of actions, made for the target; a factory of it, or None for
            :class:`.ScaledPath` (gauge fields) or :class:`.QuarticPath` (phi^4).
        n_chains: chains on each rank.
        n_measure: measurements of all chains at a node.
        separation: trajectories between measurements.
        n_relax: trajectories at a new node before the first measurement.
        n_thermalise: trajectories at the first node.
        ridge: of the normal equations, relative to their diagonal.
        n_epochs: checkpoints; the nodes are shared out evenly.
        seed: of the chains.
        label: row name.

    Raises:
        InputError: for another model, a path to another target, or options out of range.

    Example:
        ``Trainer(max_epochs=method.n_epochs, inference_mode=False).fit(method)``, or without Lightning
        ``for k in range(method.n_visits): method.fit_node(k)``
    """

    def __init__(
        self,
        model: FlowModel,
        target: Action,
        path: ActionPath | Callable[[Action], ActionPath] | None = None,
        n_chains: int = 256,
        n_measure: int = 8,
        separation: int = 2,
        n_relax: int = 4,
        n_thermalise: int = 100,
        ridge: float = 1e-7,
        n_epochs: int = 4,
        seed: int = 0,
        label: str = "",
    ) -> None:
        if not isinstance(model.flow, ContinuousFlow):
            kind = type(model.flow).__name__
            raise InputError(f"continuity regression fits a ContinuousFlow, got {kind}")
        n_nodes = model.flow.n_nodes
        if path is None:
            path = ScaledPath(target) if isinstance(target.space, Group) else QuarticPath(target)
        path = path if isinstance(path, ActionPath) else path(target)
        if path.target is not target:
            raise InputError("the path leads to another target than the method's")
        path.begin(n_nodes, model)
        steps = -(-len(path.visits) // max(1, n_epochs))
        super().__init__(model, target, n_epochs, steps, _idle, seed=seed, label=label)
        self.automatic_optimization = False
        self.path = path
        counts = {"n_chains": n_chains, "n_measure": n_measure, "separation": separation}
        if min(counts.values()) < 1 or min(n_relax, n_thermalise) < 0 or ridge < 0:
            raise InputError(
                f"expected {', '.join(counts)} >= 1, n_relax, n_thermalise, ridge >= 0, got "
                f"{list(counts.values())}, {n_relax}, {n_thermalise}, {ridge}"
            )
        p = self.flow.basis.n_features
        if n_chains * n_measure < 2 * p:
            raise InputError(
                f"{p} coefficients need at least {2 * p} fields a node, got n_chains * n_measure = "
                f"{n_chains * n_measure}"
            )
        self.n_chains, self.n_measure, self.separation = int(n_chains), int(n_measure), int(separation)
        self.n_relax, self.n_thermalise, self.ridge = int(n_relax), int(n_thermalise), float(ridge)
        self.chains: Tensor | None = None
        k = self.path.n_columns
        self.solutions = torch.zeros(n_nodes, p, k, dtype=torch.float64)
        self.unexplained = torch.zeros(n_nodes, k, k, dtype=torch.float64)

    @property
    def flow(self) -> ContinuousFlow:
        """The model's flow."""
        return cast(ContinuousFlow, self.model.flow)

    @property
    def n_visits(self) -> int:
        """Number of steps."""
        return len(self.path.visits)

    # -- one node ------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_node(self, number: int) -> dict[str, float]:
        """Sample at the number-th node visited, fit its coefficients, go on to the next; what to log."""
        node = self.path.visits[number]
        rng = self.generator(number)
        if number == 0:
            self._thermalise(node, rng)
        assert self.chains is not None
        kernel, failures, accepted = self.path.kernel(node), FailureCount(), []
        state, sums = kernel.at(self.chains), _Moments()
        for k in range(self.n_measure):
            for step in range(self.separation + (self.n_relax if k == 0 and number else 0)):
                state, info = kernel.step(rng, state)
                failures.add(info.delta_H.cpu(), step)
                accepted.append(info.accepted.double().mean())
            sums.add(self._rows(state, node))
        self.chains = state.field
        logged = self._solve(node, sums)
        if number == self.n_visits - 1:
            self.path.finish(self.model)
            weights = self.path.weights().to(self.solutions).unsqueeze(2)
            self.flow.coefficients.copy_((self.solutions @ weights).squeeze(2))
            rates = (weights.mT @ self.unexplained @ weights).flatten()
            logged["rate"] = float(rates.mean())
        return {**logged, "path_acceptance": float(torch.stack(accepted).mean()), "node": float(node)}

    def _thermalise(self, node: int, rng: torch.Generator) -> None:
        kernel = self.path.kernel(node)
        state, half = State(self.path.start(self.n_chains, rng)), self.n_thermalise // 2
        axes = tuple(range(-self.model.lattice.ndim, 0))
        two_point, count, failures = torch.zeros((), device=rng.device), 0, FailureCount()
        for step in range(self.n_thermalise):
            state, info = kernel.step(rng, state)
            failures.add(info.delta_H.cpu(), step)
            if step >= half and isinstance(self.flow.basis, PlaneWaves):
                modes = torch.fft.fftn(state.field, dim=axes)
                two_point = two_point + (modes.real.square() + modes.imag.square()).mean(0)
                count += 1
        if count:
            total = torch.tensor(float(count), device=rng.device)
            sum_over_ranks(two_point, total)
            assert isinstance(self.flow.basis, PlaneWaves)
            self.flow.basis.calibrate(two_point / (total * self.model.lattice.volume))
        self.chains = state.field

    def _rows(self, state: State, node: int) -> Tensor:
        """Design and columns of the fields, ``[n_chains, p + k]``."""
        basis, field = self.flow.basis, state.field
        force = basis.pack_force(self.path.force(field, node))
        return torch.cat([basis.design(basis.start(field), force), self.path.columns(field)], 1)

    def _solve(self, node: int, sums: "_Moments") -> dict[str, float]:
        covariance, n = sums.covariance()
        p = self.flow.basis.n_features
        gram, cross, columns = covariance[:p, :p], covariance[:p, p:], covariance[p:, p:]
        scale = gram.diagonal().clamp_min(1e-300).sqrt()
        eye = torch.eye(p, dtype=gram.dtype, device=gram.device)
        scaled = gram / scale / scale[:, None] + self.ridge * eye
        solution = torch.linalg.solve(scaled, cross / scale[:, None]) / scale[:, None]
        self.solutions[node] = solution.to(self.solutions)
        # symmetric, and positive for any ridge
        unexplained = columns - cross.T @ solution - solution.T @ cross + solution.T @ gram @ solution
        weights = self.path.leave(node, columns, unexplained).to(columns)
        theta = solution @ weights
        self.flow.coefficients[node] = theta
        unexplained = unexplained * (n / max(n - p - 1, 1))
        self.unexplained[node] = unexplained.to(self.unexplained)
        loss, variance = (float(weights @ c @ weights) for c in (unexplained, columns))
        return {"loss": loss, "variance": variance}

    # -- Lightning -----------------------------------------------------------------------------

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One node; nothing once all are done."""
        number = self.step_number(batch)
        if number < self.n_visits:
            metrics = {f"{self.label}{name}": value for name, value in self.fit_node(number).items()}
            self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)
        # advances the step count; the coefficients have no gradient and stay what the fit made them
        self.optimizers().step()  # type: ignore[union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Chains (of the first rank), path and solutions, beside weights and origin."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["continuity"] = {
            "chains": self.chains, "solutions": self.solutions, "unexplained": self.unexplained,
            "path": self.path.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the chains."""
        saved = checkpoint["continuity"]
        self.chains = None if saved["chains"] is None else saved["chains"].to(self.model_device)
        self.solutions, self.unexplained = (saved[k].to("cpu") for k in ("solutions", "unexplained"))
        self.path.restore({name: tensor.to("cpu") for name, tensor in saved["path"].items()})

    def on_fit_start(self) -> None:
        """Chains to where the model is."""
        if self.chains is not None:
            self.chains = self.chains.to(self.model_device)


class _Moments:
    """Covariance of rows, summed about the mean of the first batch."""

    def __init__(self) -> None:
        self.count, self.shift = 0, torch.zeros(())
        self.total, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        if self.count == 0:
            ranks = torch.ones((), device=rows.device, dtype=rows.dtype)
            shift = rows.mean(0)
            sum_over_ranks(shift, ranks)
            self.shift = shift / ranks
            self.total, self.squares = torch.zeros_like(shift), torch.zeros_like(shift).outer(shift)
        rows = rows - self.shift
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.T @ rows
        self.count += len(rows)

    def covariance(self) -> tuple[Tensor, int]:
        """Over all ranks, and the number of rows."""
        n = torch.tensor(float(self.count), device=self.total.device, dtype=self.total.dtype)
        sum_over_ranks(n, self.total, self.squares)
        mean = self.total / n
        return self.squares / n - mean.outer(mean), int(n)
