"""The chains of a run: starts, thermalisation, streams of trajectories for training."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lattice_lightning.data import Ensemble, PairStream
from lattice_lightning.exceptions import InputError
from lattice_lightning.files import save_atomically
from lattice_lightning.parallel import joined
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.compose import differences
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.samplers import ChainCheckpoint, run
from lattice_lightning.seeds import derive_seed

__all__ = ["Chains"]

#: options of an action that say how it is computed, not what it is
NUMERICAL = ("tolerance_md", "tolerance_accept", "max_iterations", "compiled", "name")


class Chains:
    """HMC chains of one rank; purposes are ``train`` and ``held_out``, from unrelated seeds.

    Args:
        system: what is sampled.
        config: plain config.
        folder: of the run; None for a dry run.
        rank: of this process; every rank has its own chains.

    Raises:
        InputError: when ``stream.ensemble`` is too small or of another theory.
    """

    def __init__(
        self, system: System, config: Mapping[str, Any], folder: RunFolder | None, rank: int
    ) -> None:
        self.system, self.config, self.folder, self.rank = system, config, folder, rank
        self.ensemble = self._open(config["stream"]["ensemble"])
        self._fields: dict[str, Tensor] = {}

    def seed(self, *purpose: str | int) -> int:
        """Seed of a purpose on this rank."""
        return derive_seed(int(self.config["seed"]), *purpose, self.rank)

    def start(self, purpose: str = "train") -> Tensor:
        """Starting fields of all chains."""
        return self.system.start(self.config["stream"]["n_chains"], self.seed("start", purpose))

    def thermalised(self, purpose: str = "train", progress: bool = True) -> Tensor:
        """Chains equilibrated by HMC; a killed run goes on where it was."""
        if purpose not in self._fields:
            assert self.folder is not None
            rng = torch.Generator(self.system.device)
            rng.manual_seed(self.seed("thermalise", purpose))
            kernel = self.system.hmc()
            start = self.start(purpose) if self.ensemble is None else self._stored(purpose, 0)
            shown = progress and self.rank == 0
            state, _ = run(
                kernel, kernel.init(start, rng), self.config["stream"]["n_thermalise"], rng,
                checkpoint=ChainCheckpoint(self.folder.chains(f"thermal_{purpose}", self.rank)),
                progress=f"thermalising ({purpose.replace('_', ' ')})" if shown else None,
            )
            self._fields[purpose] = state.field
        return self._fields[purpose]

    def stream(self, purpose: str = "train") -> PairStream:
        """Trajectories for training, or held out from it."""
        assert self.folder is not None
        return PairStream(
            self.system.hmc(),
            lambda: self.thermalised(purpose),
            self.folder.stream(purpose, self.rank),
            self.seed("stream", purpose),
            self.system.device,
            None if self.ensemble is None else lambda index: self._stored(purpose, index),
        )

    def row_start(self, name: str, position: int) -> Tensor:
        """Field that a row samples from: that of the training stream after ``position`` trajectories.

        Rows that started from one field would not be independent of each other, and their differences
        smaller than the errors say.
        """
        assert self.folder is not None
        path = self.folder.chains(f"start_{name}", self.rank)
        if path.exists():
            field: Tensor = torch.load(path, weights_only=True, map_location=self.system.device)["field"]
            return field
        field = self.stream().last_field(position - 1) if position else self.thermalised()
        save_atomically(path, {"field": field})
        return field

    # -- stored ensembles ----------------------------------------------------------------------

    def _open(self, path: str | None) -> Ensemble | None:
        if not path:
            return None
        ensemble, stream = Ensemble(path), self.config["stream"]
        if len(ensemble) <= stream["n_held_out"]:
            raise InputError(
                f"the ensemble {path} has {len(ensemble)} configurations of each chain, too few to hold "
                f"out {stream['n_held_out']} of them: lower stream.n_held_out or generate more"
            )
        provenance = ensemble.provenance(0).get("config")
        if isinstance(provenance, Mapping):
            lines = differences(_theory(provenance), _theory(self.config))
            if lines:
                listed = "\n  ".join(lines)
                raise InputError(f"{path} holds another theory (stored -> this run):\n  {listed}")
        needed = stream["n_chains"] * (dist.get_world_size() if joined() else 1)
        if ensemble.shape[1] < needed:
            raise InputError(
                f"the ensemble {path} has {ensemble.shape[1]} chains, the run asks for {needed}; lower "
                "stream.n_chains"
            )
        self.system.space.check_field(ensemble[0], self.system.lattice)
        return ensemble

    def _stored(self, purpose: str, index: int) -> Tensor:
        """Configuration for a trajectory: the last ``n_held_out`` are held out, the others train."""
        assert self.ensemble is not None
        stream = self.config["stream"]
        held_out, n_chains = stream["n_held_out"], stream["n_chains"]
        n_train = len(self.ensemble) - held_out
        chosen = n_train + index % max(held_out, 1) if purpose == "held_out" else index % n_train
        first = self.rank * n_chains
        return self.ensemble[chosen][first : first + n_chains].to(self.system.device)


def _theory(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the distribution: group, lattice, action."""
    action = {
        term: {key: value for key, value in (options or {}).items() if key not in NUMERICAL}
        for term, options in (config.get("action") or {}).items()
    }
    return {"group": config.get("group"), "lattice": list(config.get("lattice") or []), "action": action}
