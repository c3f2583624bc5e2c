"""An experiment: everything that its config describes, built and checked, and its stages."""

from collections.abc import Mapping
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
from lattice_lightning.parallel import joined
from lattice_lightning.pipeline.build import System, build_kernel, build_method
from lattice_lightning.pipeline.chains import Chains
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.compose import without_how
from lattice_lightning.pipeline.fit import Fitted, fit_row
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.processes import check_processes
from lattice_lightning.pipeline.rows import expand_rows, is_trained
from lattice_lightning.pipeline.weights import origin, rebuild
from lattice_lightning.samplers import History, Kernel, SelfLearningHMC

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
        self.kernels: dict[str, Kernel] = {}
        for name, row in self.rows.items():
            method = None
            if row["sampler"] == "self_learning_hmc":
                if row.get("checkpoint"):
                    _, method = rebuild(row["checkpoint"], device, self.system, row)
                else:
                    method = build_method(self.system, row, name)
                    method.origin = origin(config, name)
                self.methods[name] = method
            self.kernels[name] = build_kernel(self.system, row, method)
        self.reversal_errors: dict[str, float] = {}
        self.start()

    def into(self, folder: RunFolder) -> "Experiment":
        """The experiment, writing to a folder from now on."""
        self.folder = self.chains.folder = folder
        return self

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
            if n in self.trained
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

    def fit(self, name: str, stream: PairStream, loggers: list[Logger] | None = None) -> Fitted:
        """Train one row."""
        assert self.folder is not None
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
        kernel, sampling = self.kernels[name], self.config["sampling"]
        check_processes(self.config["trainer"])
        seed = self.chains.seed("sample", name)
        start = self.chains.row_start(name, list(self.rows).index(name) * self.n_stream // len(self.rows))
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

    def check_reversible(self, name: str, kernel: Kernel, field: Tensor) -> float:
        """Largest |change of H| after a trajectory forward and back, over all chains."""
        if not isinstance(kernel, SelfLearningHMC):
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
