"""The files of labels: ``values.zarr``, ``marks.zarr`` and the record that says what of them counts.

``values.zarr`` is ``[steps, names, chains]``, ``marks.zarr`` ``[steps, 4]``: Markov step, digest of the
configuration as it was read, digest of the values, nanoseconds. Both have one chunk a step, with
checksums. A step counts once ``record.json`` says so, which holds no list of them, so that a commit
costs the same after 10^5 steps. The order is chunks, then record (write, flush to disk, rename).
Whatever a kill leaves beyond the record is not read and is written again.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lattice_lightning import __version__
from lattice_lightning.data.ensemble import _write_json
from lattice_lightning.data.lock import Lock
from lattice_lightning.exceptions import FormatError, InputError, ResumeError

__all__ = [
    "LabelWriter", "digest_of", "labels_folder", "open_array", "provenance_of", "read_record",
    "require_same",
]

Array = npt.NDArray[np.float64]
FORMAT = "lattice_lightning.labels/1"
#: what must be the same to go on
SETTINGS = ("observable", "seed", "device")
#: columns of the marks
STEP, FIELD, VALUES, NANOSECONDS = range(4)


class LabelWriter:
    """Appends labels of one step at a time.

    Args:
        path: folder of the labels, made when missing.
        chains: of every step.
        n: steps to make room for.
        provenance: what :func:`provenance_of` gives.

    Raises:
        InputError: when another process is writing here, or the folder cannot be written.
        ResumeError: when what is stored was measured with other settings.
        FormatError: when it is damaged.
    """

    def __init__(self, path: Path, chains: int, n: int, provenance: Mapping[str, Any]) -> None:
        self.path, self.chains, self.n = path, chains, n
        self._arrays: list[Any] = []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write labels to {self.path}: {error.strerror}") from error
        try:
            self._lock = Lock(self.path / "lock", "these labels")
        except InputError:
            self._leave()
            raise
        try:
            # again, under the lock: another process may have gone on in between
            self._record: dict[str, Any] = {
                "format": FORMAT, "version": __version__, "names": None, "chains": self.chains, "count": 0,
                "last_step": -1, "provenance": dict(provenance),
            }
            if (self.path / "record.json").exists():
                self._record = read_record(self.path)
                require_same(self.path, self._record["provenance"], provenance)
                self._reopen()
        except BaseException:
            self._lock.release()
            raise

    def __len__(self) -> int:
        """Committed steps."""
        return int(self._record["count"])

    def append(self, measured: Mapping[str, Tensor], step: int, digest: int, nanoseconds: int) -> None:
        """Store what was measured of one configuration.

        Args:
            measured: values ``[chains]`` by name.
            step: its Markov step.
            digest: of the configuration.
            nanoseconds: that measuring took.

        Raises:
            InputError: for values that are not finite, not one a chain or of other names than before, or a
                folder that cannot be written.
        """
        names = self._record["names"] or list(measured)
        values = _checked(measured, names, self.chains, step)
        marks = np.array([step, digest, digest_of(values), nanoseconds], dtype=np.int64)
        count = len(self)
        try:
            if not self._arrays:
                self._create(len(names))
            for array, row in zip(self._arrays, (values, marks), strict=True):
                array[count] = row
            record = {**self._record, "names": names, "count": count + 1, "last_step": step}
            _write_json(self.path / "record.json", record)
        except OSError as error:
            raise InputError(
                f"cannot write labels to {self.path}: {error.strerror or error}; the {count} steps before "
                "are kept, the same command goes on after them"
            ) from error
        self._record = record

    def _create(self, n_names: int) -> None:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        for what, shape, dtype, fill in (
            ("values", (n_names, self.chains), "float64", float("nan")), ("marks", (4,), "int64", -1),
        ):
            array = zarr.create_array(
                str(self.path / f"{what}.zarr"), shape=(self.n, *shape), chunks=(1, *shape), dtype=dtype,
                serializer=BytesCodec(), compressors=[Crc32cCodec()], fill_value=fill, overwrite=True,
            )
            self._arrays.append(array)

    def _reopen(self) -> None:
        shapes = ("values", (len(self._record["names"]), self.chains), "float64"), ("marks", (4,), "int64")
        for what, shape, dtype in shapes:
            array = open_array(self.path, what, len(self), shape, dtype, "r+")
            if array.shape[0] < self.n:
                array.resize((self.n, *shape))
            self._arrays.append(array)

    def __enter__(self) -> "LabelWriter":
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        """Where nothing was ever written, leave no folder."""
        with suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()


def _checked(measured: Mapping[str, Tensor], names: list[str], chains: int, step: int) -> Array:
    """Values ``[names, chains]``, if all are there and finite."""
    if not names or set(measured) != set(names):
        there, expected = ", ".join(measured) or "nothing", ", ".join(names) or "at least one value"
        raise InputError(f"of step {step} {there} was measured, expected {expected}")
    for name in names:
        value = measured[name]
        if tuple(value.shape) != (chains,) or value.is_complex():
            raise InputError(
                f"{name} of step {step} must be one real number for each of {chains} chains, got "
                f"{value.dtype} {list(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            bad = (~torch.isfinite(value)).nonzero().flatten().tolist()
            raise InputError(
                f"{name} of step {step} is not finite in chain {', '.join(map(str, bad))}; nothing of that "
                "step is stored"
            )
    return torch.stack([measured[name].to(torch.float64) for name in names]).numpy()


def digest_of(values: npt.NDArray[Any]) -> int:
    """First 16 hexadecimal digits of the sha256 of the bytes, as a signed integer."""
    digest = sha256(np.ascontiguousarray(values).tobytes()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def labels_folder(ensemble: Path | str, name: str) -> Path:
    """``<ensemble>/labels/<name>``; raises InputError for a name that leads elsewhere."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,99}", name, flags=re.ASCII):
        raise InputError(
            f"labels cannot be called {name!r}: the name is a folder, of letters, digits, _, ., + and -, "
            "the first a letter, a digit or _"
        )
    return Path(ensemble) / "labels" / name


def provenance_of(described: Mapping[str, Any], seed: int, device: torch.device | str) -> dict[str, Any]:
    """What the record keeps of how labels were measured; raises InputError for a config not plain."""
    try:
        observable = json.loads(json.dumps(described))
    except (TypeError, ValueError) as error:
        raise InputError(f"an observable is described by plain entries, got {described!r}") from error
    kind = torch.device(device).type  # whose generators differ
    return {
        "observable": observable, "seed": int(seed), "device": kind, "version": __version__,
        "torch": str(torch.__version__),
    }


def require_same(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ResumeError, showing the differences, unless config, seed and device are the same."""
    old, new = (dict(_leaves({key: p[key] for key in SETTINGS})) for p in (stored, asked))
    lines = [
        f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    ]
    if lines:
        raise ResumeError(
            f"{path} was measured with other settings ({'; '.join(lines)}); use those, measure under "
            "another name, or delete the folder"
        )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict) or not tree:
        yield prefix.removesuffix("."), tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}{key}.")


def read_record(path: Path) -> dict[str, Any]:
    """The record of a labels folder; raises FormatError when there is none or it is damaged."""
    file = path / "record.json"
    if not file.is_file():
        known = sorted(p.parent.name for p in path.parent.glob("*/record.json"))
        raise FormatError(
            f"{path.parent.parent} has no labels {path.name!r} (it has {', '.join(known) or 'none'}); "
            f"measure them with: lattice-lightning label ensemble={path.parent.parent}"
        )
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        if record["format"] != FORMAT:
            raise FormatError(f"{file}: format {record['format']!r}, expected {FORMAT!r}")
        names, provenance = record["names"], record["provenance"]
        whole = all(type(record[key]) is int for key in ("chains", "count", "last_step"))
        if not whole or record["chains"] < 1 or record["count"] < 1:
            raise TypeError("chains, count and last_step are no counts")
        if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
            raise TypeError(f"names are {names!r}")
        if len(set(names)) < len(names) or any(key not in provenance for key in SETTINGS):
            raise TypeError("a name comes twice, or the provenance is not whole")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{file} is damaged ({error!r}); delete {path} to measure again") from error
    return record


def open_array(
    path: Path, what: str, count: int, shape: tuple[int, ...], dtype: str, mode: Any = "r"
) -> Any:
    """Values or marks; raises FormatError unless they are of the shape that the record counts."""
    import zarr

    name = path / f"{what}.zarr"
    try:
        array = zarr.open_array(str(name), mode=mode)
    except Exception as error:
        raise FormatError(f"{name} cannot be opened: {error}; delete {path} to measure again") from error
    if array.shape[1:] != shape or array.shape[0] < count or array.dtype != np.dtype(dtype):
        raise FormatError(
            f"{name} is {array.dtype} {list(array.shape)}, but the record counts {count} steps of {dtype} "
            f"{list(shape)}; delete {path} to measure again"
        )
    return array
