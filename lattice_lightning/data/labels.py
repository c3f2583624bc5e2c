"""Labels: observables of a stored ensemble, measured once and kept beside it, safe against kills.

The noise of a configuration is seeded by its Markov step, so that nothing depends on where a run was
interrupted or when the ensemble grew.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from lattice_lightning.data.ensemble import Ensemble
from lattice_lightning.data.label_files import (
    FIELD,
    NANOSECONDS,
    STEP,
    VALUES,
    LabelWriter,
    digest_of,
    labels_folder,
    open_array,
    provenance_of,
    read_record,
    require_same,
)
from lattice_lightning.exceptions import FormatError, InputError
from lattice_lightning.observables import Observable
from lattice_lightning.seeds import derive_seed

__all__ = ["Labels", "labels_to_resume", "measure_labels"]

Array = npt.NDArray[np.float64]


class Labels:
    """Committed labels of an ensemble; ``labels[name]`` is ``[chains, steps]`` in float64.

    Args:
        ensemble: folder of the ensemble.
        name: of the labels, a folder in ``<ensemble>/labels``.

    Attributes:
        names: observables in them.
        steps: Markov steps that are labelled, in order, as in the ensemble's record.
        chains: of every step.
        seconds: spent measuring, in all sessions.
        seconds_per_configuration: median over the steps of seconds / chains; a machine that others use
            too makes single steps slow.
        provenance: ``observable`` (its config), ``seed``, ``device`` and the ``version`` of the package
            and of ``torch`` that began them.

    Raises:
        InputError: for a name that cannot be a folder.
        FormatError: when there are none, or they are damaged.
    """

    def __init__(self, ensemble: Path | str, name: str) -> None:
        self.path = labels_folder(ensemble, name)
        record = read_record(self.path)
        self.names: list[str] = record["names"]
        self.chains: int = record["chains"]
        self.provenance: dict[str, Any] = record["provenance"]
        n = record["count"]
        arrays = [
            open_array(self.path, "values", n, (len(self.names), self.chains), "float64"),
            open_array(self.path, "marks", n, (4,), "int64"),
        ]
        # a damaged chunk read among others would leave zarr's other tasks unfinished
        rows = [[self._row(array, i) for array in arrays] for i in range(n)]
        self._values: Array = np.stack([values for values, _ in rows])
        self._marks: npt.NDArray[np.int64] = np.stack([marks for _, marks in rows])
        self._check(record["last_step"])
        self.steps = [int(step) for step in self._marks[:, STEP]]
        seconds = self._marks[:, NANOSECONDS] / 1e9
        self.seconds = float(seconds.sum())
        self.seconds_per_configuration = float(np.median(seconds)) / self.chains

    def _row(self, array: Any, position: int) -> npt.NDArray[Any]:
        try:
            return np.asarray(array[position])
        except Exception as error:
            raise self._damaged(position, str(error)) from error

    def _check(self, last_step: int) -> None:
        previous = -1
        for i, marks in enumerate(self._marks):
            if not np.isfinite(self._values[i]).all() or marks[STEP] < 0:
                raise self._damaged(i, "committed but missing")
            if marks[STEP] <= previous or marks[VALUES] != digest_of(self._values[i]):
                raise self._damaged(i, "not what was written there")
            previous = marks[STEP]
        if previous != last_step:
            raise self._damaged(len(self) - 1, f"of step {previous}, the record says {last_step}")

    def _damaged(self, position: int, why: str) -> FormatError:
        return FormatError(
            f"{self.path}: the labels of configuration {position} are damaged ({why}); restore them from "
            "a copy, or delete the folder to measure again"
        )

    def __len__(self) -> int:
        """Steps that are labelled."""
        return len(self._values)

    def __getitem__(self, name: str) -> Array:
        """Values ``[chains, steps]``.

        Raises:
            InputError: when it was not measured.
        """
        if name not in self.names:
            raise InputError(f"{self.path} has no {name!r}; it has {', '.join(self.names)}")
        return np.ascontiguousarray(self._values[:, self.names.index(name)].T)

    def require_of(self, ensemble: Ensemble) -> None:
        """Compare with the ensemble; every labelled configuration is read.

        Raises:
            InputError: when the labels are of another ensemble, or a configuration was altered since;
                names the step.
        """
        away = f"{self.path} was measured on another ensemble than {ensemble.path}"
        if ensemble.shape[1] != self.chains:
            raise InputError(f"{away}: labels of {self.chains} chains, {ensemble.shape[1]} there")
        if len(ensemble) < len(self):
            raise InputError(f"{away}: {len(self)} steps are labelled, {len(ensemble)} are there")
        for i, (ours, theirs) in enumerate(zip(self.steps, ensemble.steps, strict=False)):
            if ours != theirs:
                raise InputError(f"{away}: its configuration {i} was of step {ours}, there of {theirs}")
            if self._marks[i, FIELD] != digest_of(ensemble[i].numpy()):
                raise InputError(
                    f"{away}, or the configuration of step {ours} was altered since; restore it, or "
                    f"delete {self.path} to measure again"
                )


def labels_to_resume(
    ensemble: Ensemble,
    name: str,
    described: Mapping[str, Any],
    seed: int,
    device: torch.device | str = "cpu",
) -> Labels | None:
    """The stored labels that :func:`measure_labels` would go on from; None when there are none.

    Raises:
        ResumeError: when they were measured with other settings, showing the differences.
        InputError: when they are of another or altered ensemble, or the name cannot be a folder.
        FormatError: when they are damaged.
    """
    path = labels_folder(ensemble.path, name)
    if not (path / "record.json").exists():
        return None
    labels = Labels(ensemble.path, name)
    require_same(path, labels.provenance, provenance_of(described, seed, device))
    labels.require_of(ensemble)
    return labels


def measure_labels(
    ensemble: Path | str,
    name: str,
    observable: Observable,
    described: Mapping[str, Any],
    seed: int,
    n: int | None = None,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> Labels:
    """Measure an observable on every configuration that has no label yet; goes on where it was killed.

    Configuration i is measured with a generator seeded by ``derive_seed(seed, name, step)``, its Markov
    step in the ensemble's record: killed and resumed labels equal uninterrupted ones bit for bit on the
    CPU, and labels of a grown ensemble those measured at once.

    Args:
        ensemble: folder of the ensemble.
        name: of the labels.
        observable: what is measured; the names of its values are those of its first measurement.
        described: config of the observable, plain; kept, and compared when going on.
        seed: of the noise.
        n: label the first n configurations only; None for all.
        device: where to measure.
        progress: label of a progress bar; None for none.

    Raises:
        InputError: for an empty ensemble or too large an n, labels of another or altered ensemble, values
            that are not finite or not one a chain (nothing of that step is stored), another process
            writing, or a folder that cannot be written.
        ResumeError: when labels of this name were measured with other settings.
        FormatError: when stored labels or configurations are damaged.

    Example:
        >>> import tempfile
        >>> from lattice_lightning.data import EnsembleWriter
        >>> from lattice_lightning.groups import U1
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.observables import Plaquette
        >>> lattice, group = Lattice((4, 4)), U1()
        >>> folder = Path(tempfile.mkdtemp())
        >>> with EnsembleWriter(folder, (3, 2, 4, 4), 1, {}, dtype=torch.float64) as writer:
        ...     writer.append(group.cold(lattice, 3), step=0, rng_states=[])
        >>> measure_labels(folder, "loops", Plaquette(lattice, group), {}, seed=1)["plaquette"].tolist()
        [[1.0], [1.0], [1.0]]
    """
    stored_fields = Ensemble(ensemble)
    wanted = len(stored_fields) if n is None else n
    if not 1 <= wanted <= len(stored_fields):
        raise InputError(
            f"{ensemble} holds {len(stored_fields)} configurations of each chain"
            + ("; there is nothing to label" if n is None else f", the first n={n} cannot be labelled")
        )
    stored = labels_to_resume(stored_fields, name, described, seed, device)
    if stored is not None and len(stored) >= wanted:
        return stored
    rng, steps = torch.Generator(device), stored_fields.steps
    path, provenance = labels_folder(ensemble, name), provenance_of(described, seed, device)
    with LabelWriter(path, stored_fields.shape[1], wanted, provenance) as writer:
        for i in _bar(range(len(writer), wanted), wanted, progress):
            field = stored_fields[i]
            rng.manual_seed(derive_seed(seed, name, steps[i]))
            on_device = field.to(device)
            tic = perf_counter_ns()
            measured = observable.measure(on_device, rng)
            # back on the CPU, a GPU has finished
            measured = {key: value.detach().cpu() for key, value in measured.items()}
            nanoseconds = perf_counter_ns() - tic
            writer.append(measured, steps[i], digest_of(field.numpy()), nanoseconds)
    return Labels(ensemble, name)


def _bar(positions: range, n: int, label: str | None) -> Iterator[int]:
    if label is None:
        yield from positions
        return
    with tqdm(total=n, initial=n - len(positions), desc=label, leave=False, disable=None) as bar:
        for position in positions:
            yield position
            bar.update()
