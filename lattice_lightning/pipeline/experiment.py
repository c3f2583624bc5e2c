"""An experiment: everything that its config describes, built and checked, and its stages."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor
from tqdm.auto import tqdm

from lattice_lightning.callbacks import SamplingPlan, SamplingResult, sample_exactly
from lattice_lightning.data import EnsembleWriter, PairStream
from lattice_lightning.exceptions import ChainError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.models import FlowModel
from lattice_lightning.parallel import joined
from lattice_lightning.pipeline.build import System, build_kernel, build_method
from lattice_lightning.pipeline.chains import Chains
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.compose import without_how
from lattice_lightning.pipeline.exact import known_values
from lattice_lightning.pipeline.fit import Fitted, fit_flow, fit_row
from lattice_lightning.pipeline.flows import (
    build_flow_kernel,
    build_flow_method,
    build_model,
    build_proposal,
    fresh_start,
)
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.importance import Draws, draw_weights, halving
from lattice_lightning.pipeline.processes import check_processes
from lattice_lightning.pipeline.rows import expand_rows, is_trained
from lattice_lightning.pipeline.weights import copy_weights, origin, rebuild, rebuild_flow
from lattice_lightning.samplers import DensityProposal, History, Kernel

__all__ = ["MAX_REVERSAL_ERROR", "Experiment"]

MAX_REVERSAL_ERROR = 1e-4


class Experiment:
    """Systems, rows, methods and kernels of a config; building it is the check before long work.

    Args:
        config: resolved plain config.
        folder: of the run; None for a dry run.
        device: of fields and models.
        rank: of this process; every rank has its own chains.

    Raises:
        InputError: for anything in the config that cannot work.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: RunFolder | None,
        device: torch.device | str = "cpu",
        rank: int = 0,
    ) -> None:
        self.config, self.folder, self.rank = config, folder, rank
        check_numbers(config)
        self.system = System(config, device)
        self.chains = Chains(self.system, config, folder, rank)
        self.rows = expand_rows(config)
        self.methods: dict[str, ActionRegression] = {}
        self.flows: dict[str, FlowMethod | FlowModel] = {}
        for name, row in self.rows.items():
            if row["sampler"] == "self_learning_hmc":
                self.methods[name] = self._regression(name, row)
            elif row.get("flow") or row.get("checkpoint"):
                self.flows[name] = self._flow(name, row)
        # flows are not trained yet: these kernels are for the checks and the plan
        self.kernels: dict[str, Kernel] = {name: self.kernel(name) for name in self.rows}
        self.reversal_errors: dict[str, float] = {}
        known_values(config, self.system)
        self.start()

    def _regression(self, name: str, row: Mapping[str, Any]) -> ActionRegression:
        if row.get("checkpoint"):
            return rebuild(row["checkpoint"], self.system.device, self.system, row)[1]
        method = build_method(self.system, row, name)
        method.origin = origin(self.config, name)
        return method

    def _flow(self, name: str, row: Mapping[str, Any]) -> FlowMethod | FlowModel:
        if row.get("checkpoint"):
            return rebuild_flow(row["checkpoint"], self.system.device, self.system)[1]
        seeds = (self.chains.seed("model", name), self.chains.seed("train", name))
        model = build_model(self.system, row, name, seeds[0])
        if row.get("warm_start"):
            copy_weights(rebuild_flow(row["warm_start"], "cpu", self.system)[1], model, name)
        method = build_flow_method(self.system, row, name, model, seeds[1])
        method.origin = origin(self.config, name)
        return method

    def into(self, folder: RunFolder) -> "Experiment":
        """The experiment, writing to a folder from now on."""
        self.folder = self.chains.folder = folder
        return self

    def flow_model(self, name: str) -> FlowModel | None:
        """The flow that a row samples with, as it is now; None for rows without."""
        found = self.flows.get(self.rows[name].get("flow_of") or name)
        return found.sampling_model() if isinstance(found, FlowMethod) else found

    def kernel(self, name: str) -> Kernel:
        """The exact kernel of a row."""
        row = self.rows[name]
        if row["sampler"] in ("hmc", "self_learning_hmc"):
            return build_kernel(self.system, row, self.methods.get(name))
        return build_flow_kernel(self.system, row, self.flow_model(name), self.batch_size)

    @property
    def batch_size(self) -> int:
        """Draws at a time."""
        return int(self.config["importance"]["batch_size"]) if self.config.get("importance") else 1024

    @property
    def weighted(self) -> list[str]:
        """Rows whose importance weights are measured: annealing, and every flow once."""
        return [n for n, r in self.rows.items() if n in self.flows or r["sampler"] == "annealed"]

    @property
    def needs_hmc(self) -> bool:
        """Whether any row starts from chains that HMC thermalised."""
        return any(row["sampler"] in ("hmc", "self_learning_hmc") for row in self.rows.values())

    @property
    def trained(self) -> list[str]:
        """Rows that this run fits."""
        return [name for name, row in self.rows.items() if is_trained(row)]

    @property
    def n_stream(self) -> int:
        """Distinct trajectories that training asks for."""
        asked = [
            r["training"]["epochs"] * r["training"]["trajectories_per_epoch"]
            for n, r in self.rows.items()
            if n in self.trained and n in self.methods
        ]
        return min(max(asked, default=0), self.config["stream"]["n_trajectories"])

    # -- chains --------------------------------------------------------------------------------

    def start(self) -> Tensor:
        """Starting fields of all chains of this rank."""
        return self.chains.start()

    def thermalised(self, purpose: str = "train") -> Tensor:
        """Chains equilibrated by HMC."""
        return self.chains.thermalised(purpose)

    def stream(self, purpose: str = "train") -> PairStream:
        """Trajectories for training, or held out from it."""
        return self.chains.stream(purpose)

    def fill(self, stream: PairStream, n: int, label: str) -> None:
        """Generate the trajectories of a stream that are not stored yet."""
        for index in tqdm(range(n), desc=label, leave=False, disable=self.rank != 0 or None):
            stream.ensure(index)

    # -- stages --------------------------------------------------------------------------------

    def fit(self, name: str, stream: PairStream | None, loggers: list[Logger] | None = None) -> Fitted:
        """Train one row."""
        assert self.folder is not None
        if name in self.flows:
            method = self.flows[name]
            assert isinstance(method, FlowMethod)
            return fit_flow(name, method, self.system, self.folder, self.config, loggers)
        assert stream is not None
        return fit_row(
            name, self.rows[name], self.methods[name], self.system, stream, self.folder,
            self.config, self.thermalised, loggers,
        )

    def held_out_losses(self, stream: PairStream) -> dict[str, Tensor]:
        """Pair loss of every effective action on held-out trajectories, ``[chains, trajectories]``.

        Trajectories in which molecular dynamics of a chain failed are left out, for all rows.
        """
        batches = [stream[i] for i in range(self.config["stream"]["n_held_out"])]
        batches = [b for b in batches if bool(torch.isfinite(b["action_end"]).all())]
        if not batches:
            raise ChainError("every held-out trajectory failed in some chain: use more integrator steps")
        losses = {
            name: torch.stack([method.pair_loss(batch) for batch in batches], 1).cpu()
            for name, method in self.methods.items()
        }
        return {name: gather_chains(loss) for name, loss in losses.items()}

    def sample(self, name: str, progress: bool = True) -> SamplingResult:
        """Exact sampling of a row: frozen, fresh thermalisation, reversibility checked first.

        Raises:
            ChainError: when molecular dynamics is not reversible to 1e-4.
        """
        assert self.folder is not None
        kernel, sampling = self.kernel(name), self.rows[name]["sampling"]
        check_processes(self.config["trainer"])
        seed = self.chains.seed("sample", name)
        start = self._row_start(name)
        self.reversal_errors[name] = self.check_reversible(name, kernel, start)
        plan = SamplingPlan(
            sampling["n_thermalise"], sampling["n_steps"], sampling["measure_every"],
            sampling["checkpoint_every"],
        )
        writer = None
        if sampling["save_every"]:
            writer = EnsembleWriter(
                self.folder.ensemble(name), tuple(start.shape),
                sampling["n_steps"] // sampling["save_every"],
                {"config": without_how(self.config), "row": name, "seed": seed},
                self.rank,
                start.dtype,
            )
        try:
            result = sample_exactly(
                kernel, start, plan, self.system.observables, seed,
                self.folder.chains(name, self.rank), name if progress and self.rank == 0 else None,
                writer=writer, save_every=sampling["save_every"] or 1,
            )
        finally:
            if writer is not None:
                writer.close()
        return gather_result(result)

    def _row_start(self, name: str) -> Tensor:
        row = self.rows[name]
        if row["sampler"] in ("hmc", "self_learning_hmc"):
            position = list(self.rows).index(name) * self.n_stream // len(self.rows)
            return self.chains.row_start(name, position)
        seed = self.chains.seed("fresh start", name)
        n_chains = self.config["stream"]["n_chains"]
        return fresh_start(self.system, row, self.flow_model(name), n_chains, seed, name)

    def weigh(self, name: str) -> Draws:
        """Direct draws of a row with their log weights."""
        assert self.folder is not None
        proposal = build_proposal(self.system, self.rows[name], self.flow_model(name), self.batch_size)
        draws = draw_weights(
            proposal, int(self.config["importance"]["n"]), self.batch_size,
            self.chains.seed("importance", name), self.system.device,
            self.folder.importance(name, self.rank), name if self.rank == 0 else None,
        )
        return replace(draws, halving=self.halving(name))

    def halving(self, name: str) -> dict[str, Any] | None:
        """What halving the integration steps of a continuous flow changes; None for other flows."""
        if self.rows[name]["sampler"] == "annealed":
            return None
        n, seed = int(self.config["importance"]["n_halving"]), self.chains.seed("halving", name)
        return halving(self.system, self.flow_model(name), n, seed, self.batch_size)

    def target_weights(self, name: str, fields: Iterable[Tensor]) -> Tensor | None:
        """log w of fields of the target under the flow of a row, ``[chains, fields]``.

        None for rows whose weights a field alone does not determine.
        """
        model = self.flow_model(name)
        if model is None or self.rows[name]["sampler"] == "annealed":
            return None
        proposal = DensityProposal(model, self.system.target, self.batch_size)
        weights = [proposal.log_weight(field.to(self.system.device)).cpu() for field in fields]
        return torch.stack(weights, 1)

    def check_reversible(self, name: str, kernel: Kernel, field: Tensor) -> float:
        """Largest |change of H| after a trajectory forward and back, over all chains."""
        if not hasattr(kernel, "reversal_error"):
            return 0.0
        rng = torch.Generator(field.device)
        rng.manual_seed(self.chains.seed("reversal", name))
        error = kernel.reversal_error(rng, kernel.init(field, rng))
        worst = int(error.argmax())
        if not bool((error < MAX_REVERSAL_ERROR).all()):
            raise ChainError(
                f"row {name!r}: molecular dynamics run back misses its start by |dH| = "
                f"{float(error[worst]):.1e} in chain {worst}, more than {MAX_REVERSAL_ERROR:.0e}: "
                "tighten tolerance_md of the action, or use smaller integrator steps"
            )
        return float(error.max())


def gather_chains(series: Tensor) -> Tensor:
    """Chains of all ranks, ``[chains, steps]``."""
    if not joined():
        return series
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, series.cpu())
    return torch.cat(parts)


def gather_result(result: SamplingResult) -> SamplingResult:
    """A sampling result with the chains of all ranks; seconds of the slowest."""
    if not joined():
        return result
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (result.history.as_dict(), result.seconds))
    series = {
        name: list(torch.cat([part[name] for part, _ in parts]).unbind(1))
        for name in parts[0][0]
    }
    return SamplingResult(History(series), result.state, max(seconds for _, seconds in parts))
