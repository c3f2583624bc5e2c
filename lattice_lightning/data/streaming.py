"""Trajectories for training, streamed from HMC or started from a stored ensemble.

The stream never sees the network, so it is exact. Each trajectory is stored as it is generated, with
the state of its chain: several rows train on one stream, a killed run goes on where it was, and the
chains stay on the training device.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.files import save_atomically
from lattice_lightning.samplers import FailureCount, Kernel, State, Trajectory

__all__ = ["PairStream", "TrajectoryData", "batch_of"]


class PairStream:
    """A reproducible sequence of trajectories, generated once and kept on disk.

    ``stream[i]`` is trajectory i of all chains; trajectories are generated in order when first
    asked for, and read back after that, in this process or a later one.

    Args:
        kernel: the target's own HMC.
        start: makes the thermalised start, called once, when nothing is stored.
        folder: where trajectories are kept (about two fields each); None for a temporary folder.
        seed: seed of the chain.
        device: device of the chains.
        source: optional; field that trajectory i starts from (a stored ensemble). By default the
            chain goes on from the trajectory before.

    Raises:
        ResumeError: when a stored trajectory cannot be read.
        ChainError: when trajectories without a finite energy persist.
    """

    def __init__(
        self,
        kernel: Kernel,
        start: Callable[[], Tensor],
        folder: Path | str | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        source: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.kernel, self.start, self.source = kernel, start, source
        if folder is None:
            folder = tempfile.mkdtemp(prefix="trajectories_")
            # gone with the stream; TemporaryDirectory would warn whenever it is not closed by hand
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = Path(folder)
        self.rng, self.seed = torch.Generator(device), seed
        self.device = torch.device(device)
        self._next = 0
        self._state: State | None = None
        self._failures = FailureCount()

    def _path(self, index: int) -> Path:
        return self.folder / f"trajectory_{index:06d}.pt"

    def _load(self, index: int) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = torch.load(
                self._path(index), weights_only=True, map_location=self.device
            )
        except Exception as error:
            raise ResumeError(
                f"cannot read the stored trajectory {self._path(index)} "
                f"({type(error).__name__}); delete it and all later ones to generate them again"
            ) from error
        return loaded

    def _generate(self) -> None:
        index = self._next
        if self._state is None:
            if index > 0:
                previous = self._load(index - 1)
                self._state = State(previous["field"])
                self.rng.set_state(previous["rng"].cpu())
            else:
                self.rng.manual_seed(self.seed)
                self._state = self.kernel.init(self.start(), self.rng)
        if self.source is not None:
            self._state = self.kernel.init(self.source(index), self.rng)
        tic = perf_counter()
        trajectory = self.kernel.propose(self.rng, self._state)
        self._state, info = self.kernel.decide(self.rng, trajectory)
        self._failures.add(info.delta_H.cpu(), index)
        save_atomically(
            self._path(index),
            {
                **batch_of(trajectory),
                "field": self._state.field,
                "rng": self.rng.get_state(),
                "seconds": perf_counter() - tic,
            },
        )
        self._next += 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Trajectory ``index`` as a batch for training."""
        self.ensure(index)
        stored = self._load(index)
        return {k: v for k, v in stored.items() if k not in {"field", "rng", "seconds"}}

    def ensure(self, index: int) -> None:
        """Generate and store all trajectories up to ``index``."""
        while not self._path(index).exists():
            if self._next > index:  # it was deleted since
                self._next, self._state = 0, None
            while self._path(self._next).exists():
                self._next += 1
                self._state = None
            self._generate()

    def last_field(self, index: int) -> Tensor:
        """Field of the chains after trajectory ``index``."""
        self.ensure(index)
        field: Tensor = self._load(index)["field"]
        return field

    def seconds(self, n: int) -> float:
        """What the first n trajectories took to generate."""
        return sum(float(self._load(i).get("seconds", 0.0)) for i in range(n) if self._path(i).exists())

    def discard(self) -> None:
        """Delete the stored trajectories."""
        for path in self.folder.glob("trajectory_*.pt"):
            path.unlink()


def batch_of(trajectory: Trajectory) -> dict[str, Any]:
    """Both ends, aux and target actions of a trajectory."""
    return {
        "start": trajectory.start,
        "end": trajectory.end,
        "aux": dict(trajectory.aux),
        "action_start": trajectory.action_start,
        "action_end": trajectory.action_end,
    }


class _Window(Dataset[dict[str, Any]]):
    """One epoch of a stream."""

    def __init__(self, stream: PairStream, first: int, length: int, modulo: int | None) -> None:
        self.stream, self.first, self.length, self.modulo = stream, first, length, modulo

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = self.first + index
        return self.stream[position % self.modulo if self.modulo else position]


class TrajectoryData(LightningDataModule):
    """Sized epochs over a stream; epoch e holds trajectories e n ... (e+1) n - 1.

    Epochs are the checkpoint interval: a run that resumes at an epoch's end sees exactly the
    trajectories that the uninterrupted one would.

    Args:
        stream: where the trajectories come from.
        trajectories_per_epoch: batches an epoch.
        n_distinct: start over after that many trajectories (several passes); None for never.
    """

    def __init__(
        self, stream: PairStream, trajectories_per_epoch: int, n_distinct: int | None = None
    ) -> None:
        super().__init__()
        if trajectories_per_epoch < 1:
            raise InputError(
                f"an epoch needs at least one trajectory, got {trajectories_per_epoch}"
            )
        self.stream, self.per_epoch, self.n_distinct = stream, trajectories_per_epoch, n_distinct

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Loader of the current epoch; needs ``reload_dataloaders_every_n_epochs=1``."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        window = _Window(self.stream, epoch * self.per_epoch, self.per_epoch, self.n_distinct)
        # the identity collate: a trajectory is a batch already
        return DataLoader(window, batch_size=None, shuffle=False, num_workers=0)
