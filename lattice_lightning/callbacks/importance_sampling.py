"""Importance weights of direct draws beside training: how good the flow is as a sampler."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lattice_lightning.exceptions import InputError
from lattice_lightning.methods import FlowMethod, gather_draws, step_generator
from lattice_lightning.metrics import WeightStatistics, weight_statistics
from lattice_lightning.seeds import derive_seed

__all__ = ["ImportanceSampling"]

LOGGED = ("ess", "ess_error", "acceptance", "var_log_w", "log_z", "log_z_error")


class ImportanceSampling(Callback):
    """Logs what n direct draws say, with frozen (averaged) weights and double precision.

    At epoch ends ``ess``, ``acceptance`` (of independence Metropolis), ``var_log_w`` and ``log_z`` of
    :func:`.weight_statistics`, ``ess_error``, ``log_z_error``, and ``failed``, the fraction of draws
    without a weight: they count as zero, as an exact sampler rejects them. ESS and acceptance are biased
    up while n is not large against 1 / ESS; quoted values need n >= 10^4, and are blind to modes that
    the flow misses.

    Args:
        every_n_epochs: interval; the last epoch always counts.
        n: draws on each rank.
        batch_size: draws at a time.
        seed: of the draws, the same every time, so that the curve shows training.

    Raises:
        InputError: for numbers below one.
    """

    def __init__(
        self, every_n_epochs: int = 1, n: int = 4096, batch_size: int = 1024, seed: int = 0
    ) -> None:
        if min(every_n_epochs, batch_size) < 1 or n < 2:
            raise InputError(
                "expected every_n_epochs >= 1, n >= 2 and batch_size >= 1, got "
                f"{every_n_epochs}, {n}, {batch_size}"
            )
        self.every_n_epochs, self.n, self.batch_size, self.seed = every_n_epochs, n, batch_size, seed

    def statistics(self, module: FlowMethod, rank: int = 0) -> WeightStatistics:
        """Of the draws of all ranks."""
        # apart from the training's, whose seed may be the same
        rng = step_generator(derive_seed(self.seed, "importance"), 0, rank, module.model_device)
        log_w = module.log_weights(self.n, rng, self.batch_size)
        # nan would be taken for a draw that a rank has not got; both are failures of weight zero
        log_w = torch.where(torch.isnan(log_w), torch.inf, log_w)
        return weight_statistics(gather_draws(log_w[None], self.n)[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.current_epoch + 1) % self.every_n_epochs and not last:
            return
        if not isinstance(pl_module, FlowMethod):
            raise InputError(f"importance sampling needs a flow, got {type(pl_module).__name__}")
        found = self.statistics(pl_module, trainer.global_rank)
        figures = {name: getattr(found, name) for name in LOGGED} | {"failed": found.n_failed / found.n}
        for name, value in figures.items():
            if value is not None:
                # joint over processes already: Lightning's mean changes nothing
                joint = torch.tensor(value, dtype=torch.float64, device=pl_module.model_device)
                pl_module.log(f"{pl_module.label}{name}", joint, sync_dist=True, batch_size=1)
