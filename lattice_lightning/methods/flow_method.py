"""What all methods that train a flow share: numbered steps, averaged weights, draws, the kernel.

Importance weights are log w = -S - log q of fields drawn from the model, so that Z = E_q[w] in the
measure of :mod:`lattice_lightning.models.flow`.
"""

import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods.averaging import WeightAverage
from lattice_lightning.methods.steps import StepIndices, step_generator
from lattice_lightning.models import FlowModel
from lattice_lightning.parallel import joined, sum_over_ranks
from lattice_lightning.samplers import DensityProposal, IndependenceMetropolis, Kernel

__all__ = ["FlowMethod", "gather_draws"]

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


class FlowMethod(LightningModule):
    """Base of the methods that train a :class:`.FlowModel` for a target.

    Subclasses write ``training_step(batch, batch_idx)``, where ``batch`` is the index of the step in
    its epoch, and draw with :meth:`generator`.

    Args:
        model: trained in place. Its weights keep their dtype.
        target: bosonic action on the model's lattice.
        n_epochs: length of the training, for who makes the Trainer.
        steps_per_epoch: optimizer steps between checkpoints.
        optimizer: makes the optimizer from parameters.
        scheduler: makes a learning-rate schedule, stepped every batch.
        ema: decay of the exponential average of the weights that is sampled with; None for none.
        gradient_clip: largest norm of the gradient; None for no limit.
        seed: of the random numbers of training.
        label: row name, put before the names of logged metrics.

    Raises:
        InputError: when model and target live on different fields, or for options out of range.
    """

    def __init__(
        self,
        model: FlowModel,
        target: Action,
        n_epochs: int,
        steps_per_epoch: int,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        ema: float | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
        label: str = "",
    ) -> None:
        super().__init__()
        if model.lattice != target.lattice or model.space.name != target.space.name:
            raise InputError(
                f"the flow lives on {model.space.name}, lattice {model.lattice.shape}, its target on "
                f"{target.space.name}, lattice {target.lattice.shape}"
            )
        if n_epochs < 1:
            raise InputError(f"training needs at least one epoch, got n_epochs={n_epochs}")
        if gradient_clip is not None and not gradient_clip > 0:
            raise InputError(f"gradient_clip must be positive or null, got {gradient_clip}")
        self.model, self.target = model, target
        self.n_epochs, self.steps = int(n_epochs), StepIndices(steps_per_epoch)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.average = None if ema is None else WeightAverage(model, ema)
        self.gradient_clip, self.seed = gradient_clip, int(seed)
        self.label = f"{label}/" if label else ""
        self.origin: dict[str, Any] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.steps)

    @property
    def model_device(self) -> torch.device:
        """Where the weights are, and so where fields are drawn."""
        parameter = next(self.model.parameters(), None)
        return self.device if parameter is None else parameter.device

    # -- draws ---------------------------------------------------------------------------------

    def step_number(self, batch: int) -> int:
        """Number of a step in the whole training, from its index in the epoch."""
        return self.current_epoch * self.steps_per_epoch + int(batch)

    def generator(self, step: int) -> torch.Generator:
        """The generator of a training step on this rank, on the model's device."""
        return step_generator(self.seed, step, self.global_rank, self.model_device)

    def sampling_model(self) -> FlowModel:
        """A frozen copy of the model to sample with: averaged weights where there are any.

        Its weights keep their dtype, fields and log q are in double precision. Training on does not
        change it, as an exact kernel demands.
        """
        source = self.model if self.average is None else self.average.model
        assert isinstance(source, FlowModel)
        return deepcopy(source).requires_grad_(False).eval()

    def log_weights(self, n: int, rng: torch.Generator, batch_size: int = 1024) -> Tensor:
        """log w of n fields drawn from :meth:`sampling_model`, ``[n]``, double precision.

        Args:
            n: number of fields.
            rng: generator on the model's device.
            batch_size: fields at a time.
        """
        proposal = DensityProposal(self.sampling_model(), self.target, batch_size)
        return proposal.sample(n, rng)[1]

    def kernel(self, target: Action, **options: Any) -> Kernel:
        """Independence Metropolis for the target, with the model as it is trained now.

        Args:
            target: the action sampled.
            options: of :class:`.DensityProposal`, such as ``batch_size``.
        """
        return IndependenceMetropolis(DensityProposal(self.sampling_model(), target, **options))

    # -- Lightning -----------------------------------------------------------------------------

    def train_dataloader(self) -> StepIndices:
        """Indices of the steps of an epoch."""
        return self.steps

    def configure_optimizers(self) -> Any:
        """Optimizer over the weights of the model, schedule stepped every batch."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("the flow has no trainable weight: sample with it without training")
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, and refuse a gradient that is not finite.

        Raises:
            InputError: for such a gradient; the weights are still the last good ones.
        """
        limit = self.gradient_clip if gradient_clip_val is None else gradient_clip_val
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else float(limit))
        if not bool(torch.isfinite(norm)):
            raise InputError(f"the gradient of {self.where()} is not finite: lower the learning rate")

    def where(self) -> str:
        """Step and learning rate, for messages."""
        trainer = self._trainer
        rate = [g["lr"] for o in trainer.optimizers for g in o.param_groups] if trainer else []
        at = f" (learning rate {', '.join(f'{float(r):.3g}' for r in rate)})" if rate else ""
        return f"step {self.global_step}{at}"

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the new weights into the average."""
        if self.average is not None:
            self.average.update(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the origin (config, row, version) beside the weights, so that a file is enough."""
        checkpoint["origin"] = self.origin

    # -- compilation ---------------------------------------------------------------------------

    def compile_flow(self, trial: Callable[[], Tensor]) -> bool:
        """Compile the flow's forward in place; back to plain torch, with a warning, where that fails.

        Args:
            trial: a loss whose forward and backward must run compiled.

        Returns:
            Whether the flow runs compiled. Copies (:meth:`sampling_model`) and files never do.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.model.flow.compile(dynamic=False)
        try:
            with torch.enable_grad():
                torch.autograd.grad(trial(), parameters, allow_unused=True)
        except Exception as error:
            self.model.flow._compiled_call_impl = None
            warnings.warn(
                f"the flow does not compile ({type(error).__name__}) and trains in plain torch, slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return True


def gather_draws(values: Tensor, length: int) -> Tensor:
    """Rows of figures ``[k, n]``, n <= length, of all ranks side by side: ``[k, sum of n]``.

    Without gradient, in double precision; columns with nan are left out where there are several ranks.
    """
    values = values.detach().double()
    if not joined():
        return values
    shape = (dist.get_world_size(), values.shape[0], length)
    # a sum of what each rank put in its own place; nan marks places that stay empty
    joint = values.new_zeros(shape)
    own = joint[dist.get_rank()]
    own[:] = float("nan")
    own[:, : values.shape[1]] = values
    sum_over_ranks(joint)
    flat = joint.movedim(1, 0).flatten(1)
    return flat[:, ~torch.isnan(flat).any(0)]
