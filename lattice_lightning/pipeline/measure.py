"""The command ``measure``: observables of a stored ensemble or of one configuration file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lattice_lightning.analysis import estimate, format_error
from lattice_lightning.data import Ensemble, read_configuration
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import Group, from_name
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import Observable, Plaquette, PolyakovLoops
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import check_integer
from lattice_lightning.samplers import History

__all__ = ["measure_command"]

_KEYS = ("ensemble", "file", "group", "lattice", "seed")


def measure_command(given: Mapping[str, Any], console: Console) -> dict[str, float]:
    """Print the observables; of an ensemble with errors, of a file as they are.

    Raises:
        InputError: for unknown keys, or neither ensemble nor file.
    """
    if unknown := set(given) - set(_KEYS):
        raise InputError(f"measure has no key {sorted(unknown)}; known: {', '.join(_KEYS)}")
    rng = torch.Generator()
    rng.manual_seed(check_integer("seed", given.get("seed", 1), 0))
    if given.get("ensemble"):
        return _ensemble(Path(str(given["ensemble"])), rng, console)
    if not given.get("file") or not given.get("group") or not given.get("lattice"):
        raise InputError(
            "measure needs ensemble=FOLDER, or file=CONFIGURATION with group=SU(2) and "
            "lattice=[4,4,4,4]"
        )
    lattice, group = Lattice(given["lattice"]), from_name(str(given["group"]))
    if not isinstance(group, Group):
        raise InputError(f"measure reads gauge links, got group {group.name}")
    if group.n_colors < 2:
        raise InputError(f"configuration files hold links in SU(N), got group {group.name}")
    links = read_configuration(Path(str(given["file"])), lattice.shape, group.n_colors)
    values: dict[str, float] = {}
    observables: list[Observable] = [Plaquette(lattice, group), PolyakovLoops(lattice, group)]
    for observable in observables:
        values.update({n: float(v[0]) for n, v in observable.measure(links, rng).items()})
    for name, value in values.items():
        console.print(f"{name:24s} {value:.10f}", highlight=False)
    return values


def _ensemble(path: Path, rng: torch.Generator, console: Console) -> dict[str, float]:
    ensemble = Ensemble(path)
    if len(ensemble) == 0:
        raise InputError(f"{path} holds no configuration")
    config = ensemble.provenance(0).get("config")
    if not isinstance(config, Mapping):
        raise InputError(f"{path} does not say the config that it was made with; give file= and group=")
    system = System(config)
    history = History()
    for i in range(len(ensemble)):
        for observable in system.observables:
            history.append(observable.measure(ensemble[i], rng))
    table = Table("observable", "value", "tau_int", "reliable")
    values = {}
    for name, series in history.observables.items():
        result = estimate(series, name)
        values[name] = result.value
        tau = "-" if result.tau_int is None else f"{result.tau_int:.1f}"
        reliable = "yes" if result.reliable else f"no: {result.reason}"
        table.add_row(name, format_error(result.value, result.error), tau, reliable)
    console.print(table)
    return values
