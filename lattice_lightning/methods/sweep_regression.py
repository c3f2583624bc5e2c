"""Training a plaquette sweep: both its parts follow in closed form, nothing by gradient."""

from functools import partial
from typing import Any, cast

import torch
from torch.optim import SGD

from lattice_lightning.actions import Action, WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods.action_path import ScaledPath
from lattice_lightning.methods.continuity import ContinuityRegression
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.models import FlowModel, HaarPrior
from lattice_lightning.models.group_sweep import GroupSweep
from lattice_lightning.models.plaquette_chain import ChainAction, ChainFlow
from lattice_lightning.seeds import derive_seed

__all__ = ["SweepRegression"]


class SweepRegression(FlowMethod):
    """Fits a :class:`.GroupSweep` to the Wilson action.

    The map of a single plaquette by quadrature; the flow of the chain that the sweep leaves by
    :class:`.ContinuityRegression`, one node a step, on a lattice that holds the chain alone. The cost
    does not depend on the volume.

    Args:
        model: Haar prior and :class:`.GroupSweep`; fitted in place.
        target: Wilson action.
        n_chains: chains on each rank, of the small lattice.
        n_measure: measurements of all chains at a node.
        separation: trajectories between measurements.
        n_relax: trajectories at a new node before the first measurement.
        n_thermalise: trajectories at the first node.
        ridge: of the normal equations.
        n_epochs: checkpoints.
        seed: of the chains.
        label: row name.

    Raises:
        InputError: for another model or action.
    """

    def __init__(
        self,
        model: FlowModel,
        target: Action,
        n_chains: int = 256,
        n_measure: int = 16,
        separation: int = 2,
        n_relax: int = 2,
        n_thermalise: int = 10,
        ridge: float = 1e-7,
        n_epochs: int = 4,
        seed: int = 0,
        label: str = "",
    ) -> None:
        flow = model.flow
        if not isinstance(flow, GroupSweep) or not isinstance(model.prior, HaarPrior):
            raise InputError(
                f"a sweep regression fits a GroupSweep of Haar links, got {type(flow).__name__} of "
                f"{type(model.prior).__name__}"
            )
        if type(target) is not WilsonGauge:
            raise InputError(f"a sweep is made for the Wilson action, got {type(target).__name__}")
        basis: Any = flow.chain.basis
        # a ring is as long as the column
        extent = basis.n_rest + 1 if basis.is_open else model.lattice.shape[1]
        small, group = Lattice((2, extent)), basis.group
        chain: ChainFlow = flow.chain.on(small)
        inner = ContinuityRegression(
            FlowModel(HaarPrior(small, group), chain),
            ChainAction(small, group, target.beta, min(basis.n_rest, extent)),
            ScaledPath, n_chains, n_measure, separation, n_relax, n_thermalise, ridge, seed=seed,
        )
        steps = -(-inner.n_visits // max(1, n_epochs))
        # an optimizer that does nothing: Lightning counts steps by optimizers
        super().__init__(model, target, n_epochs, steps, partial(SGD, lr=0.0), seed=seed, label=label)
        self.automatic_optimization = False
        self.beta = target.beta
        # no submodule: its weights are a copy of the model's
        self.__dict__["inner"] = inner

    @property
    def sweep(self) -> GroupSweep:
        """The model's flow."""
        return cast(GroupSweep, self.model.flow)

    @torch.no_grad()
    def training_step(self, batch: int, batch_idx: int) -> None:
        """The plaquette's map with the first node of the chain, then node by node."""
        inner: ContinuityRegression = self.__dict__["inner"]
        number = self.step_number(batch)
        if number == 0:
            residual = self.sweep.sweep.fit(self.beta)
            name = f"{self.label}plaquette_residual"
            self.log(name, residual, on_step=True, on_epoch=False, batch_size=1)
        if number < inner.n_visits:
            metrics = {f"{self.label}{name}": value for name, value in inner.fit_node(number).items()}
            self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)
            self.sweep.chain.coefficients.copy_(inner.flow.coefficients)
        # advances the step count
        self.optimizers().step()  # type: ignore[union-attr]

    def on_fit_start(self) -> None:
        """The small lattice to where the model is, with random numbers of this rank."""
        inner: ContinuityRegression = self.__dict__["inner"]
        inner.to(self.model_device)
        # of no trainer of its own, so it does not know its rank
        inner.seed = derive_seed(self.seed, "rank", self.global_rank) if self.global_rank else self.seed
        inner.on_fit_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The chains beside weights and origin."""
        super().on_save_checkpoint(checkpoint)
        inner: ContinuityRegression = self.__dict__["inner"]
        inner.on_save_checkpoint(checkpoint)
        checkpoint["origin"] = self.origin
        checkpoint["sweep_chain"] = inner.flow.coefficients.detach().clone()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the chains."""
        inner: ContinuityRegression = self.__dict__["inner"]
        inner.on_load_checkpoint(checkpoint)
        with torch.no_grad():
            inner.flow.coefficients.copy_(checkpoint["sweep_chain"])
