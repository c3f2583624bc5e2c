"""Ensembles of configurations in zarr v3, written while sampling, safe against kills.

One array a rank, ``[steps, chains, *field]``, one chunk a stored step, with checksums and nan as fill
value. A configuration counts once the small record ``committed_rank<r>.json`` says so; the order is
chunk, then state of the chains and generators, then record (write, flush to disk, rename). Whatever
a kill leaves beyond the record is not read and is written again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lattice_lightning import __version__
from lattice_lightning.data.lock import Lock
from lattice_lightning.exceptions import FormatError, InputError, ResumeError
from lattice_lightning.files import save_atomically

__all__ = ["Ensemble", "EnsembleWriter"]

FORMAT = "lattice_lightning.ensemble/1"


def _write_json(path: Path, payload: Any) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(payload, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if record["format"] != FORMAT:
            raise FormatError(f"{path}: format {record['format']!r}, expected {FORMAT!r}")
        for key, kind in (("steps", list), ("field_shape", list), ("provenance", dict), ("version", str)):
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} is {record[key]!r}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is damaged ({error!r}); the ensemble cannot be trusted") from error
    return record


class EnsembleWriter:
    """Appends configurations of all chains of one rank.

    Args:
        path: folder of the ensemble, made when missing.
        field_shape: ``[chains, *field]`` of what is stored; complex fields are stored as they are.
        n_steps: configurations planned for each chain.
        provenance: plain entries kept with every configuration: config, seed, ...
        rank: of this process.
        dtype: of the field.

    Raises:
        InputError: when another process is writing here.
        ResumeError: when the stored ensemble has another shape or provenance.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "phi4.zarr"
        >>> with EnsembleWriter(folder, (2, 4, 4), 3, {"seed": 1}, dtype=torch.float64) as writer:
        ...     writer.append(torch.zeros(2, 4, 4, dtype=torch.float64), step=0, rng_states=[])
        >>> Ensemble(folder)[0].shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self,
        path: Path | str,
        field_shape: Sequence[int],
        n_steps: int,
        provenance: Mapping[str, Any],
        rank: int = 0,
        dtype: torch.dtype = torch.complex128,
    ) -> None:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        if n_steps < 1:
            raise InputError(f"an ensemble needs at least one configuration, got n_steps={n_steps}")
        self.path, self.rank, self.dtype = Path(path), rank, dtype
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write an ensemble to {self.path}: {error.strerror}") from error
        self._lock = Lock(self.path / f"lock_rank{rank}", "this ensemble")
        try:
            self._record_path = self.path / f"committed_rank{rank}.json"
            self._record = self._open_record(field_shape, provenance)
            name = str(self.path / f"rank{rank}.zarr")
            if self._record["steps"] and not Path(name).exists():
                raise ResumeError(f"{name} is gone, though its record counts configurations")
            if Path(name).exists() and self._record["steps"]:
                self._array = zarr.open_array(name, mode="r+")
                if self._array.shape[0] < n_steps:
                    self._array.resize((n_steps, *field_shape))
            else:
                self._array = zarr.create_array(
                    name, shape=(n_steps, *field_shape), chunks=(1, *field_shape),
                    dtype="complex128" if dtype.is_complex else "float64",
                    serializer=BytesCodec(), compressors=[Crc32cCodec()],
                    fill_value=complex("nan") if dtype.is_complex else float("nan"), overwrite=True,
                )
        except BaseException:
            self._lock.release()
            raise

    def _open_record(self, field_shape: Sequence[int], provenance: Mapping[str, Any]) -> dict[str, Any]:
        fresh = {
            "format": FORMAT,
            "field_shape": list(field_shape),
            "provenance": json.loads(json.dumps(provenance)),
            "version": __version__,
            "steps": [],
        }
        if not self._record_path.exists():
            _write_json(self._record_path, fresh)
            return fresh
        stored = _read_record(self._record_path)
        for key in ("field_shape", "provenance"):
            if stored.get(key) != fresh[key]:
                raise ResumeError(
                    f"{self.path} holds an ensemble with another {key}; write to another folder, or "
                    "repeat the command that began it"
                )
        return stored

    def __len__(self) -> int:
        """Committed configurations of each chain."""
        return len(self._record["steps"])

    def append(self, field: Tensor, step: int, rng_states: Sequence[Tensor]) -> None:
        """Store the field of all chains after a step; steps already committed are left alone.

        A resumed chain repeats the steps since its own checkpoint bit for bit, so they are the same.

        Raises:
            InputError: for another shape, or a field that is not finite.
        """
        steps = self._record["steps"]
        if steps and step <= steps[-1]:
            return
        if list(field.shape) != self._record["field_shape"]:
            raise InputError(
                f"the ensemble holds fields of shape {self._record['field_shape']}, got {list(field.shape)}"
            )
        values = field.detach().cpu().numpy()
        if not bool(torch.isfinite(field.abs()).all()):
            raise InputError(f"the field of step {step} is not finite; it is not stored")
        if len(steps) >= self._array.shape[0]:
            self._array.resize((len(steps) + 1, *self._array.shape[1:]))
        self._array[len(steps)] = values
        state = {"step": step, "field": field.detach().cpu(), "rng": [s.cpu() for s in rng_states]}
        save_atomically(self.path / f"chains_rank{self.rank}.pt", state)
        self._record["steps"] = [*steps, step]
        _write_json(self._record_path, self._record)

    def last(self) -> tuple[int, Tensor, list[Tensor]] | None:
        """Step, field and generator states after the last committed configuration."""
        steps = self._record["steps"]
        if not steps:
            return None
        state = torch.load(self.path / f"chains_rank{self.rank}.pt", weights_only=True)
        # a kill between state and record leaves the state one ahead, with the field in no record
        if state["step"] != steps[-1]:
            return None
        return int(state["step"]), state["field"], list(state["rng"])

    def close(self) -> None:
        """Let others write."""
        self._lock.release()

    def __enter__(self) -> "EnsembleWriter":
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.close()


class Ensemble:
    """Committed configurations of all ranks; ``ensemble[i]`` is ``[chains, *field]``.

    Args:
        path: folder of the ensemble.

    Raises:
        FormatError: when there is none, or a record is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        import zarr

        self.path = Path(path)
        # in the order of ranks: rank 10 after rank 9
        records = sorted(self.path.glob("committed_rank*.json"), key=lambda p: (len(p.name), p.name))
        if not records:
            raise FormatError(f"{self.path} is not an ensemble: it has no record of what was written")
        self._records = [_read_record(record) for record in records]
        self._arrays: list[Any] = []
        for record_path, record in zip(records, self._records, strict=True):
            name = record_path.name.removeprefix("committed_").removesuffix(".json")
            if not record["steps"]:
                self._arrays.append(None)
                continue
            try:
                self._arrays.append(zarr.open_array(str(self.path / f"{name}.zarr"), mode="r"))
            except Exception as error:
                raise FormatError(f"{self.path / f'{name}.zarr'} cannot be opened: {error}") from error
        # ranks are committed one after another: what all of them have counts
        self._length = min(len(record["steps"]) for record in self._records)

    def __len__(self) -> int:
        """Configurations of each chain."""
        return self._length

    @property
    def shape(self) -> tuple[int, ...]:
        """``(configurations, chains of all ranks, *field)``."""
        chains = sum(record["field_shape"][0] for record in self._records)
        return (self._length, chains, *self._records[0]["field_shape"][1:])

    @property
    def steps(self) -> list[int]:
        """Markov step of every configuration, in order."""
        return [int(step) for step in self._records[0]["steps"][: self._length]]

    def _position(self, index: int) -> int:
        position = index + self._length if index < 0 else index
        if not 0 <= position < self._length:
            raise IndexError(f"configuration {index} of an ensemble with {self._length}")
        return position

    def __getitem__(self, index: int) -> Tensor:
        """Fields of all chains, ``[chains, *field]``.

        Raises:
            IndexError: beyond the end.
            FormatError: for a damaged chunk, naming it.
        """
        position = self._position(index)
        parts = []
        for rank, array in enumerate(self._arrays):
            assert array is not None
            try:
                part = torch.from_numpy(array[position])
            except Exception as error:
                raise FormatError(
                    f"{self.path}: configuration {position} of rank {rank} is damaged ({error}); "
                    "restore it from a copy or leave it out"
                ) from error
            if not bool(torch.isfinite(part.abs()).all()):
                raise FormatError(
                    f"{self.path}: configuration {position} of rank {rank} was committed but is missing"
                )
            parts.append(part)
        return torch.cat(parts)

    def provenance(self, index: int) -> dict[str, Any]:
        """Config, seed, step and code version of a configuration."""
        record = self._records[0]
        return {
            **record["provenance"],
            "step": record["steps"][self._position(index)],
            "version": record["version"],
        }
