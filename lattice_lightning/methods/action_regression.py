"""Training an effective action on the trajectories that HMC yields.

With Delta = S - S_theta, the losses are
(i)   ``absolute``: 1/2 mean |Delta|^2 at the end point (the paper's, 2103.11965),
(ii)  ``variance``: Var(Delta) over the batch of end points,
(iii) ``pairs``: 1/2 mean [Delta(U', phi) - Delta(U, phi)]^2 along a trajectory at fixed phi: what
      the acceptance of self-learning HMC feels, since every function of phi alone cancels.

The linear coefficients of S_theta can follow in closed form: least squares of the pair differences
over all batches seen, older ones forgotten while a network moves underneath. With the solver
``gauss_newton`` the weights of the network follow with them, see :mod:`.gauss_newton`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import ChainError, InputError
from lattice_lightning.methods.gauss_newton import RecursiveLeastSquares, pair_jacobian
from lattice_lightning.models import EffectiveAction
from lattice_lightning.parallel import joined, sum_over_ranks
from lattice_lightning.samplers import SelfLearningHMC

__all__ = ["ActionRegression", "PairBatch", "fit_linear"]

PairBatch = dict[str, Any]
OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


def fit_linear(gram: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """Coefficients c that minimise sum |y - c f|^2 + ridge, from sum f f^T and sum f y.

    The ridge is relative to the diagonal of the Gram matrix; solved in scaled variables.
    """
    scale = gram.diagonal().clamp_min(1e-300).sqrt()
    scaled = gram / scale[:, None] / scale[None, :]
    eye = torch.eye(len(scale), dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve(scaled + ridge * eye, moment / scale) / scale
    return solution


class ActionRegression(LightningModule):
    """Regression of an effective action on the target's.

    Args:
        effective: the effective action to train.
        loss: ``pairs`` (default), ``variance`` or ``absolute``.
        linear: how the linear coefficients are found: ``closed_form`` (with ``pairs`` only),
            ``gradient``, or ``fixed`` at their start.
        optimizer: makes the optimizer from parameters; None for a model without a network.
        scheduler: makes a learning-rate schedule, stepped every batch.
        forgetting: weight of the older normal equations at each batch while a network trains.
        ridge: relative ridge of the closed form.
        solver: how a network is trained: ``gradient`` (with the optimizer) or ``gauss_newton`` (with
            ``pairs`` only), together with the linear coefficients unless those are ``fixed``.
        weight_scale: expected size of the network's weights, prior and largest step of Gauss-Newton.
        label: row name, put before the names of logged metrics.

    Raises:
        InputError: for unknown options or options that contradict each other.
    """

    normal_matrix: Tensor
    normal_moment: Tensor

    def __init__(
        self,
        effective: EffectiveAction,
        loss: str = "pairs",
        linear: str = "closed_form",
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        forgetting: float = 0.95,
        ridge: float = 1e-9,
        label: str = "",
        solver: str = "gradient",
        weight_scale: float = 0.01,
    ) -> None:
        super().__init__()
        if loss not in {"pairs", "variance", "absolute"}:
            raise InputError(f"unknown loss {loss!r}: expected pairs, variance or absolute")
        if linear not in {"closed_form", "gradient", "fixed"}:
            raise InputError(f"unknown linear={linear!r}: expected closed_form, gradient or fixed")
        if linear == "closed_form" and loss != "pairs":
            raise InputError(
                f"closed-form coefficients minimise the pair loss, not {loss!r}; use linear=gradient"
            )
        if solver not in {"gradient", "gauss_newton"}:
            raise InputError(f"unknown solver {solver!r}: expected gradient or gauss_newton")
        gauss_newton = solver == "gauss_newton" and not effective.is_linear
        if gauss_newton and (loss != "pairs" or linear == "gradient"):
            raise InputError(
                f"gauss_newton minimises the pair loss, not {loss!r} with linear={linear}; use "
                "loss=pairs and linear=closed_form, or solver=gradient"
            )
        if not weight_scale > 0:
            raise InputError(f"weight_scale must be positive, got {weight_scale}")
        needs_optimizer = (not effective.is_linear and not gauss_newton) or linear == "gradient"
        if needs_optimizer and optimizer is None:
            raise InputError("a network or linear=gradient needs an optimizer, got none")
        if not 0 < forgetting <= 1 or ridge < 0:
            raise InputError(
                f"expected 0 < forgetting <= 1 and ridge >= 0, got {forgetting}, {ridge}"
            )
        self.effective, self.loss_kind, self.linear = effective, loss, linear
        self.make_optimizer = optimizer if needs_optimizer else None
        self.make_scheduler = scheduler
        # DDP waits for a gradient of every parameter that wants one
        effective.coefficients.requires_grad_(linear == "gradient" or effective.is_linear)
        self.forgetting = 1.0 if effective.is_linear else forgetting
        self.ridge, self.label = ridge, f"{label}/" if label else ""
        self.origin: dict[str, Any] = {}
        self.automatic_optimization = needs_optimizer
        n = effective.coefficients.numel()
        self.least_squares: RecursiveLeastSquares | None = None
        if gauss_newton:
            scales = torch.full((effective.n_parameters,), weight_scale, dtype=torch.float64)
            # a scale of zero holds a parameter where it is
            scales[:n] = 0.0 if linear == "fixed" else float("inf")
            self.least_squares = RecursiveLeastSquares(scales, self.forgetting, ridge)
            n = effective.n_parameters
        self.register_buffer("normal_matrix", torch.zeros(n, n, dtype=torch.float64))
        self.register_buffer("normal_moment", torch.zeros(n, dtype=torch.float64))

    # -- loss ----------------------------------------------------------------------------------

    def pair_features(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Differences of the terms ``[terms, batch]`` and of the target ``[batch]`` along pairs."""
        n = batch["start"].shape[0]
        values = self._terms(torch.cat([batch["start"], batch["end"]]), batch["aux"], copies=2)
        return values[:, n:] - values[:, :n], batch["action_end"] - batch["action_start"]

    def _terms(self, field: Tensor, aux: dict[str, Tensor], copies: int) -> Tensor:
        repeated = {name: torch.cat([tensor] * copies) for name, tensor in aux.items()}
        return self.effective.term_values(self.effective.space.pack(field), repeated)

    def pair_loss(self, batch: PairBatch) -> Tensor:
        """1/2 [Delta(U') - Delta(U)]^2 for each chain, ``[batch]``, no gradient; for validation."""
        with torch.no_grad():
            features, change = self.pair_features(batch)
            return 0.5 * (change - self.effective.coefficients @ features).square()

    def loss(self, batch: PairBatch) -> Tensor:
        """The loss of the batch, and the closed-form coefficients updated if they are used."""
        usable = torch.isfinite(batch["action_end"])
        if not bool(usable.all()):
            if not bool(usable.any()):
                raise ChainError(
                    "molecular dynamics failed in every chain of a training trajectory: use more "
                    "integrator steps or a shorter trajectory"
                )
            batch = _select(batch, usable)
        if self.least_squares is not None:
            return self._gauss_newton(self.least_squares, batch)
        if self.loss_kind == "pairs":
            features, change = self.pair_features(batch)
            if self.linear == "closed_form":
                self._update_linear(features.detach(), change)
            return 0.5 * (change - self._coefficients() @ features).square().mean()
        values = self._coefficients() @ self._terms(batch["end"], batch["aux"], copies=1)
        delta = batch["action_end"] - values
        if self.loss_kind == "absolute":
            return 0.5 * delta.square().mean()
        # joint variance over ranks: with the detached joint mean the per-rank mean of squares has
        # exactly the joint gradient
        return (delta - _mean_over_ranks(delta.detach().mean())).square().mean()

    def _gauss_newton(self, least_squares: RecursiveLeastSquares, batch: PairBatch) -> Tensor:
        """The loss before the update that the batch causes."""
        change, jacobian = pair_jacobian(self.effective, batch["start"], batch["end"], batch["aux"])
        residual = batch["action_end"] - batch["action_start"] - change
        delta = least_squares.step(self.normal_matrix, jacobian, residual)
        with torch.no_grad():
            for parameter in self.effective.parameters():
                change_of_it, delta = delta.tensor_split([parameter.numel()])
                parameter.add_(change_of_it.reshape(parameter.shape))
        return 0.5 * residual.square().mean()

    def _coefficients(self) -> Tensor:
        free = self.linear == "gradient"
        return self.effective.coefficients if free else self.effective.coefficients.detach()

    def _update_linear(self, features: Tensor, change: Tensor) -> None:
        gram, moment = features @ features.T, features @ change
        sum_over_ranks(gram, moment)
        self.normal_matrix.mul_(self.forgetting).add_(gram)
        self.normal_moment.mul_(self.forgetting).add_(moment)
        with torch.no_grad():
            fitted = fit_linear(self.normal_matrix, self.normal_moment, self.ridge)
            self.effective.coefficients.copy_(fitted)

    # -- Lightning -----------------------------------------------------------------------------

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor | None:
        """Loss of one batch of trajectories."""
        loss = self.loss(batch)
        self.log(f"{self.label}loss", loss.detach(), on_step=True, on_epoch=False, batch_size=1)
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"the loss of step {self.global_step} is {float(loss)}: lower the learning rate or "
                "the initial weights"
            )
        if self.automatic_optimization:
            return loss
        # advances the step count; the coefficients have no gradient and stay what the fit made them
        self.optimizers().step()  # type: ignore[union-attr]
        return None

    def configure_optimizers(self) -> Any:
        """Optimizer over network (and coefficients, if trained by gradient).

        In closed form an idle one: Lightning counts steps, and so saves checkpoints, by optimizers.
        """
        if self.make_optimizer is None:
            return torch.optim.SGD([self.effective.coefficients], lr=0.0)
        parameters = [
            p
            for p in self.parameters()
            if p.requires_grad
        ]
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the origin (config, row, version) beside the weights, so that a file is enough."""
        checkpoint["origin"] = self.origin

    def kernel(self, target: Action, **options: Any) -> SelfLearningHMC:
        """Self-learning HMC for the target, guided by the action as it is trained now."""
        return SelfLearningHMC(target, self.effective, **options)


def _select(batch: PairBatch, keep: Tensor) -> PairBatch:
    selected = {k: v[keep] for k, v in batch.items() if k != "aux"}
    selected["aux"] = {name: tensor[keep] for name, tensor in batch["aux"].items()}
    return selected


def _mean_over_ranks(value: Tensor) -> Tensor:
    if joined():
        value = value.clone()
        sum_over_ranks(value)
        value /= dist.get_world_size()
    return value
