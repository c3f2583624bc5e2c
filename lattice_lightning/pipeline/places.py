"""Ensembles of a surrogate run with their labels: sampled here or stored before, measured resumably."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lattice_lightning.analysis import estimate
from lattice_lightning.analysis.errors import Array
from lattice_lightning.callbacks import SamplingPlan, sample_exactly
from lattice_lightning.data import Ensemble, EnsembleWriter, Labels, measure_labels
from lattice_lightning.exceptions import InputError
from lattice_lightning.observables import Observable
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.compose import differences, without_how
from lattice_lightning.seeds import derive_seed

__all__ = ["Place", "Probe", "check_stored", "iterations_of", "prepare", "probe"]

#: what makes an ensemble the one that a config describes
_SAME = ("lattice", "group", "action")


@dataclass(frozen=True)
class Probe:
    """What the observables of a system measure, asked of one starting field.

    Attributes:
        names: of the series, by observable.
        seconds: of one configuration, by observable; small numbers are not to be trusted.
    """

    names: Mapping[str, list[str]]
    seconds: Mapping[str, float]

    def key_of(self, name: str) -> tuple[str, str]:
        """Observable and series that ``series`` or ``observable.series`` names.

        Raises:
            InputError: when nothing or more than one observable measures it.
        """
        key, dot, series = name.partition(".")
        if dot:
            if series in self.names.get(key, []):
                return key, series
        else:
            keys = [key for key, names in self.names.items() if name in names]
            if len(keys) == 1:
                return keys[0], name
            if keys:
                raise InputError(
                    f"{name} is measured by {' and '.join(keys)}; say which, as in {keys[0]}.{name}"
                )
        known = ", ".join(name for names in self.names.values() for name in names)
        raise InputError(f"nothing measures {name}; the observables give {known}")

    def expand(self, names: Sequence[str]) -> list[str]:
        """Names of series, where ``observable.*`` stands for all that the observable measures."""
        found = []
        for name in names:
            key, _, series = name.partition(".")
            everything = series == "*" and key in self.names
            found += [f"{key}.{n}" for n in self.names[key]] if everything else [name]
        for name in found:
            self.key_of(name)
        return found


def probe(system: System, config: Mapping[str, Any], seed: int) -> Probe:
    """Measure everything once, on one starting field."""
    rng = torch.Generator(system.device)
    rng.manual_seed(seed)
    field = system.start(1, seed)
    names, seconds = {}, {}
    for key, observable in _observables(system, config).items():
        tic = perf_counter()
        names[key] = list(observable.measure(field, rng))
        seconds[key] = perf_counter() - tic
    return Probe(names, seconds)


def _observables(system: System, config: Mapping[str, Any]) -> dict[str, Observable]:
    keys = [key for key, given in (config.get("observables") or {}).items() if given]
    return dict(zip(keys, system.observables, strict=True))


@dataclass(frozen=True)
class Place:
    """One ensemble, every kept configuration of which is labelled.

    Attributes:
        name: ``here``, or another place that surrogates are trained at.
        system: that it samples.
        ensemble: the configurations.
        labels: of each observable.
        names: finds series.
        sampling: acceptance, seconds and solver iterations of a trajectory; empty for a stored ensemble.
    """

    name: str
    system: System
    ensemble: Ensemble
    labels: Mapping[str, Labels]
    names: Probe
    sampling: Mapping[str, Any]

    def series(self, name: str) -> Array:
        """``[chains, configurations]``."""
        key, series = self.names.key_of(name)
        values: Array = self.labels[key][series]
        return values

    def seconds(self, names: list[str]) -> float:
        """Seconds a configuration that measuring these series takes, each observable once."""
        return sum(
            self.labels[key].seconds_per_configuration for key in {self.names.key_of(n)[0] for n in names}
        )

    def fields(self, first: int, end: int) -> Tensor:
        """Configurations ``[(end - first) * chains, ...]``, all chains of one step together."""
        return torch.cat([self.ensemble[i] for i in range(first, end)])


def iterations_of(labels: Labels) -> float:
    """Solver iterations a configuration; 0 where nothing is solved for."""
    counted = [name for name in labels.names if name.endswith("iterations")]
    return float(labels[counted[0]].mean()) if counted else 0.0


def check_stored(config: Mapping[str, Any], path: Path, n_steps: int) -> None:
    """Refuse a stored ensemble that is too short, or of another theory than the config's.

    Raises:
        InputError: saying what differs.
    """
    ensemble = Ensemble(path)
    if len(ensemble) < n_steps:
        raise InputError(
            f"{path} holds {len(ensemble)} configurations of each chain, the sets need {n_steps}; "
            "generate more, or make surrogate.sets smaller"
        )
    origin = ensemble.provenance(0).get("config")
    if not isinstance(origin, Mapping):
        raise InputError(f"{path} does not say what config it was made with, so what it holds is not known")
    wanted, stored = ({k: c.get(k) for k in _SAME} for c in (config, origin))
    wanted["every"] = config["surrogate"].get("every", 1)
    stored["every"] = ensemble.provenance(0).get("every")
    if lines := differences(stored, wanted):
        listed = "\n  ".join(lines)
        raise InputError(f"{path} is another ensemble than this run's:\n  {listed}")


def prepare(
    config: Mapping[str, Any], name: str, system: System, names: Probe, n_steps: int, folder: Path,
    stored: Path | None,
) -> Place:
    """Sample the ensemble of a place where none is stored, then measure every observable on it.

    Args:
        config: of the place.
        name: of the place.
        system: of that config.
        names: its series.
        n_steps: configurations needed of each chain.
        folder: of the run; the ensemble goes to ``ensembles/<name>`` there.
        stored: folder of an ensemble to use instead.
    """
    path, sampling = stored or folder / "ensembles" / name, {}
    if stored is None:
        sampling = _sample(config, name, system, n_steps, path)
    labels = {}
    for key, observable in _observables(system, config).items():
        labels[key] = measure_labels(
            path, key, observable, config["observables"][key], int(config["seed"]), n_steps, system.device,
            f"{key}, {name}",
        )
    return Place(name, system, Ensemble(path), labels, names, sampling)


def _sample(
    config: Mapping[str, Any], name: str, system: System, n_steps: int, path: Path
) -> dict[str, Any]:
    every = int(config["surrogate"].get("every", 1))
    seed = derive_seed(int(config["seed"]), "surrogate", name)
    how = SamplingPlan(
        config["sampling"]["n_thermalise"], n_steps * every, 1, config["sampling"]["checkpoint_every"]
    )
    start = system.start(config["stream"]["n_chains"], derive_seed(seed, "start"))
    described = without_how(config)
    described = {k: v for k, v in described.items() if k not in ("surrogate", "observables")}
    provenance = {"config": described, "seed": seed, "row": "hmc", "every": every}
    (path / "chains").mkdir(parents=True, exist_ok=True)
    with EnsembleWriter(path, start.shape, n_steps, provenance, dtype=start.dtype) as writer:
        result = sample_exactly(
            system.hmc(), start, how, (), seed, path / "chains" / "hmc.pt", f"HMC, {name}", writer, every
        )
    history = result.history
    return {
        "acceptance": asdict(estimate(history["accepted"], "accepted", proportion=True)),
        "seconds_per_trajectory": result.seconds / history["accepted"].numel(),
        "iterations_per_trajectory": sum(
            float(history[n].mean()) for n in history.series if n.startswith("iterations_")
        ),
        "trajectories_between_configurations": every,
    }
