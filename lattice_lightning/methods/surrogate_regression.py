"""Training a network to predict an expensive observable: mean squared error of standardised labels."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.methods.steps import step_generator
from lattice_lightning.models.lcnn import LCNN

__all__ = ["Batches", "LabelledData", "SurrogateRegression"]

Batch = tuple[Tensor, Tensor]


class Batches:
    """Rows of inputs and labels in batches, the last one shorter; no DataLoader draws from global state.

    Args:
        inputs: ``[n, ...]``.
        labels: ``[n]``.
        batch_size: rows a batch.
        rng: shuffles; None keeps the order.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, batch_size: int, rng: torch.Generator | None = None
    ) -> None:
        n = len(labels)
        order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
        self.inputs, self.labels, self.parts = inputs, labels, order.split(batch_size)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order."""
        for part in self.parts:
            yield self.inputs[part], self.labels[part]


class LabelledData(LightningDataModule):
    """Labelled inputs on the CPU; the last part in Markov time validates, the rest trains.

    The order of an epoch follows from its number, so that a resumed training goes on as the
    uninterrupted one would; the trainer must reload loaders every epoch.

    Args:
        inputs: ``[n, ...]``, rows in the order of Markov time.
        labels: ``[n]``.
        validation: share of the rows that validates, at least one; at least one trains.
        batch_size: rows a batch.
        seed: of the order.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, validation: float, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        n = len(labels)
        self.n_train = max(1, n - max(1, round(validation * n)))
        self.inputs, self.labels = inputs, labels
        self.batch_size, self.seed = int(batch_size), int(seed)

    @property
    def training_part(self) -> Batch:
        """Inputs and labels that train."""
        return self.inputs[: self.n_train], self.labels[: self.n_train]

    @property
    def validation_part(self) -> Batch:
        """Inputs and labels that validate."""
        return self.inputs[self.n_train :], self.labels[self.n_train :]

    @property
    def n_batches(self) -> int:
        """Training batches of an epoch."""
        return -(-self.n_train // self.batch_size)

    def train_dataloader(self) -> Batches:
        """Batches of this epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return Batches(*self.training_part, self.batch_size, step_generator(self.seed, epoch))

    def val_dataloader(self) -> Batches:
        """Batches that validate, in order."""
        return Batches(*self.validation_part, self.batch_size)


class SurrogateRegression(LightningModule):
    """Fits a network to labels; logs ``train_loss`` and ``val_loss`` (variance of the labels 1).

    The weights of the lowest validation loss, those of the start included, are kept beside those that
    train, also in checkpoints; training stops when ``patience`` epochs in a row did not improve on it.

    Args:
        network: inputs ``[batch, ...]`` to ``[batch]``; trained in place.
        n_features: features that are standardised before the network sees them; None for links.
        n_epochs: length of the training.
        n_batches: optimizer steps an epoch.
        lr: learning rate at the start, of AdamW; it falls to zero along a cosine.
        weight_decay: of AdamW.
        patience: epochs without improvement before the training stops.

    Example:
        ``Trainer(max_epochs=n, reload_dataloaders_every_n_epochs=1).fit(method, data)``
    """

    input_center: Tensor
    input_scale: Tensor
    label_center: Tensor
    label_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        n_features: int | None,
        n_epochs: int,
        n_batches: int,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        patience: int = 20,
    ) -> None:
        super().__init__()
        self.network, self.standardises = network, n_features is not None
        self.n_steps = int(n_epochs) * int(n_batches)
        self.lr, self.weight_decay, self.patience = float(lr), float(weight_decay), int(patience)
        shape = (n_features or 0,)
        for name, value in (
            ("input_center", torch.zeros(shape)), ("input_scale", torch.ones(shape)),
            ("label_center", torch.zeros(())), ("label_scale", torch.ones(())),
        ):
            self.register_buffer(name, value.double())
        self.origin: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.waited = float("inf"), 0

    # -- use -----------------------------------------------------------------------------------

    def standardise(self, inputs: Tensor, labels: Tensor) -> None:
        """Take means and standard deviations from the training part, before the first step.

        Raises:
            InputError: when its labels do not vary.
        """
        spread = labels.std(correction=0)
        if len(labels) < 2 or not float(spread) > 1e-12 * float(labels.abs().max()):
            raise InputError(
                f"the {len(labels)} labels that train do not vary (all {float(labels[0])}): nothing to "
                "learn; look at how they were measured, or give more of them"
            )
        self.label_center.copy_(labels.mean())
        self.label_scale.copy_(spread)
        if self.standardises:
            scale = inputs.std(0, correction=0)
            self.input_center.copy_(inputs.mean(0))
            # a feature that varies in the validation part alone
            self.input_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        elif isinstance(self.network, LCNN):
            self.network.calibrate(inputs, (labels - self.label_center) / self.label_scale)

    @torch.no_grad()
    def prepare(self, data: LabelledData) -> None:
        """Standardise, and take the initial weights for the best so far; before the first step."""
        device = self.label_center.device
        self.standardise(*(part.to(device) for part in data.training_part))
        total = sum(
            float(self.loss((inputs.to(device), labels.to(device)))) * len(labels)
            for inputs, labels in data.val_dataloader()
        )
        self._consider(total / len(data.validation_part[1]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised predictions ``[batch]``."""
        if self.standardises:
            inputs = (inputs - self.input_center) / self.input_scale
        out: Tensor = self.network(inputs)
        return out

    @torch.no_grad()
    def predict(self, inputs: Tensor, batch_size: int = 256) -> Tensor:
        """Predictions in units of the labels, ``[n]``, on the CPU."""
        device = self.label_center.device
        parts = [self(part.to(device)) for part in inputs.split(batch_size) if len(part)]
        standardised = torch.cat(parts) if parts else self.label_center.new_zeros(0)
        return (self.label_center + self.label_scale * standardised).cpu()

    # -- Lightning -----------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of standardised labels."""
        inputs, labels = batch
        return (self(inputs) - (labels - self.label_center) / self.label_scale).square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch.

        Raises:
            InputError: when it is not finite.
        """
        loss = self.loss(batch)
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss of step {self.global_step} is not finite: lower lr={self.lr}")
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of a batch, averaged over all rows."""
        self.log("val_loss", self.loss(batch), on_step=False, on_epoch=True, batch_size=len(batch[1]))

    def on_validation_epoch_end(self) -> None:
        """Keep the best weights; stop when they have been the best for long."""
        self._consider(float(self.trainer.callback_metrics["val_loss"]))
        if self.waited >= self.patience:
            self.trainer.should_stop = True

    def _consider(self, loss: float) -> None:
        if loss < self.best_loss:
            self.best_loss, self.waited = loss, 0
            self.best = deepcopy(self.network.state_dict())
        else:
            self.waited += 1

    def take_best(self) -> None:
        """Load the weights of the lowest validation loss."""
        if self.best:
            self.network.load_state_dict(self.best)

    def configure_optimizers(self) -> Any:
        """AdamW and a cosine schedule, stepped every batch."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Origin and best weights beside those that train."""
        checkpoint["origin"] = self.origin
        checkpoint["best"] = {"weights": self.best, "loss": self.best_loss, "waited": self.waited}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Best weights so far."""
        saved = checkpoint["best"]
        self.best, self.best_loss, self.waited = saved["weights"], saved["loss"], saved["waited"]
