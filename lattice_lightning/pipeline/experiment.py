"""An experiment: everything that its config describes, built and checked, and its stages."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor
from tqdm.auto import tqdm

from lattice_lightning.analysis import Estimate, estimate
from lattice_lightning.callbacks import SamplingPlan, SamplingResult, sample_exactly
from lattice_lightning.data import EnsembleWriter, PairStream
from lattice_lightning.exceptions import ChainError, InputError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.pipeline.build import System, build_kernel, build_method
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.fit import Fitted, fit_row
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.rows import expand_rows, is_trained
from lattice_lightning.pipeline.weights import origin, rebuild
from lattice_lightning.samplers import ChainCheckpoint, History, Kernel, SelfLearningHMC, run

__all__ = ["MAX_REVERSAL_ERROR", "Experiment"]

MAX_REVERSAL_ERROR = 1e-4

# distances between the seeds of one run's generators
RANK, HELD_OUT, ROW = 1_000_003, 500_009, 10_007


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
        self.seed = int(config["seed"])
        check_numbers(config)
        self.system = System(config, device)
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
        self._starts: dict[str, Tensor] = {}
        self.start()
        if config["stream"]["ensemble"]:
            self._ensemble_field(0)

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

    def start(self, purpose: str = "train") -> Tensor:
        """Starting fields of all chains of this rank."""
        seed = self.seed + RANK * self.rank + (HELD_OUT if purpose == "held_out" else 0)
        return self.system.start(self.config["stream"]["n_chains"], seed)

    def thermalised(self, purpose: str = "train", progress: bool = True) -> Tensor:
        """Chains equilibrated by HMC; a killed run goes on where it was."""
        if purpose in self._starts:
            return self._starts[purpose]
        assert self.folder is not None
        stream = self.config["stream"]
        rng = torch.Generator(self.system.device)
        offset = HELD_OUT if purpose == "held_out" else 0
        rng.manual_seed(self.seed + RANK * self.rank + offset + 1)
        kernel = self.system.hmc()
        if stream["ensemble"]:
            self._starts[purpose] = self._from_ensemble(purpose)
            return self._starts[purpose]
        state, _ = run(
            kernel, kernel.init(self.start(purpose), rng), stream["n_thermalise"], rng,
            checkpoint=ChainCheckpoint(self.folder.chains(f"thermal_{purpose}", self.rank)),
            progress=f"thermalising ({purpose.replace('_', ' ')})" if progress else None,
        )
        self._starts[purpose] = state.field
        return state.field

    def _ensemble_field(self, index: int) -> Tensor:
        from lattice_lightning.data import Ensemble

        ensemble = Ensemble(self.config["stream"]["ensemble"])
        n_chains = self.config["stream"]["n_chains"]
        if len(ensemble) == 0:
            raise InputError(f"the ensemble {ensemble.path} holds no configuration yet")
        field = ensemble[index % len(ensemble)].to(self.system.device)
        self.system.space.check_field(field, self.system.lattice)
        if field.shape[0] < n_chains:
            raise InputError(
                f"the stored ensemble {self.config['stream']['ensemble']} has {field.shape[0]} "
                f"chains, the run asks for {n_chains}; set stream.n_chains={field.shape[0]}"
            )
        return field[:n_chains]

    def _from_ensemble(self, purpose: str) -> Tensor:
        # the last configurations are held out, the first ones train
        return self._ensemble_field(-1 if purpose == "held_out" else 0)

    def stream(self, purpose: str = "train") -> PairStream:
        """Trajectories for training, or held out from it."""
        assert self.folder is not None
        offset = HELD_OUT if purpose == "held_out" else 0
        stored = self.config["stream"]["ensemble"] is not None
        held_out = self.config["stream"]["n_held_out"]

        def source(index: int) -> Tensor:
            if purpose == "held_out":
                return self._ensemble_field(-1 - index % max(held_out, 1))
            return self._ensemble_field(index)

        return PairStream(
            self.system.hmc(),
            lambda: self.thermalised(purpose),
            self.folder.stream(purpose, self.rank),
            self.seed + RANK * self.rank + offset + 2,
            self.system.device,
            source if stored else None,
        )

    def fill(self, stream: PairStream, n: int, label: str) -> None:
        """Generate the trajectories of a stream that are not stored yet."""
        for index in tqdm(range(n), desc=label, leave=False, disable=None):
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
        """Pair loss of every effective action on held-out trajectories, ``[chains, trajectories]``."""
        n = self.config["stream"]["n_held_out"]
        losses = {
            name: torch.stack([method.pair_loss(stream[i]) for i in range(n)], 1).cpu()
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
        index = list(self.rows).index(name)
        seed = self.seed + RANK * self.rank + ROW * (index + 1)
        start = self.thermalised()
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
                {"config": dict(self.config), "row": name, "seed": seed},
                self.rank,
                start.dtype,
            )
        try:
            result = sample_exactly(
                kernel, start, plan, self.system.observables, seed,
                self.folder.chains(name, self.rank), name if progress else None,
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
        rng.manual_seed(self.seed + 3)
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
    if not (dist.is_available() and dist.is_initialized()):
        return series
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, series.cpu())
    return torch.cat(parts)


def gather_result(result: SamplingResult) -> SamplingResult:
    """A sampling result with the chains of all ranks; seconds of the slowest."""
    if not (dist.is_available() and dist.is_initialized()):
        return result
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (result.history.as_dict(), result.seconds))
    joined = {
        name: list(torch.cat([series[name] for series, _ in parts]).unbind(1))
        for name in parts[0][0]
    }
    return SamplingResult(History(joined), result.state, max(seconds for _, seconds in parts))


def loss_estimates(losses: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Mean held-out loss of every row with its error."""
    return {name: estimate(series, f"held-out loss of {name}") for name, series in losses.items()}
