"""The command ``label``: observables of a stored ensemble, measured once and kept beside it."""

import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from lattice_lightning.analysis import estimate, format_error
from lattice_lightning.data import Ensemble, Labels, labels_to_resume, measure_labels
from lattice_lightning.exceptions import InputError
from lattice_lightning.observables import Observable
from lattice_lightning.pipeline.build import System, instantiate
from lattice_lightning.pipeline.checks import check_integer, check_name, explained
from lattice_lightning.pipeline.compose import config_folder

__all__ = ["label_command"]

_KEYS = ("ensemble", "observables", "only", "n", "seed", "device")


def label_command(given: Mapping[str, Any], console: Console) -> dict[str, Labels]:
    """Measure observables of every configuration without labels; goes on where it was killed.

    Args:
        given: ``ensemble``, its folder. ``observables``: a mapping ``{name: {_target_: ...}}`` (or its YAML
            text), or a name in configs/observables; both may refer to the ensemble's config, as in
            ``${action.fermion.mass}``; by default those of that config. ``only``: some of their names.
            ``n``: label the first n configurations. ``seed``, ``device`` (cpu, gpu, cuda:1).
        console: where to print.

    Returns:
        The labels by name of the observable.

    Raises:
        InputError: for what cannot be measured, before the first measurement.
        ResumeError: when labels of a name were measured with other settings.
    """
    if unknown := set(given) - set(_KEYS):
        raise InputError(f"label has no key {sorted(unknown)}; known: {', '.join(_KEYS)}")
    if not given.get("ensemble"):
        raise InputError("label needs ensemble=FOLDER, as generate writes it")
    path, seed = Path(str(given["ensemble"])), check_integer("seed", given.get("seed", 1), 0)
    n = given.get("n")
    device = _device(given.get("device", "cpu"))
    ensemble = Ensemble(path)
    if len(ensemble) == 0:
        raise InputError(f"{path} holds no configuration")
    if n is not None and check_integer("n", n, 1) > len(ensemble):
        raise InputError(f"{path} holds {len(ensemble)} configurations of each chain, got n={n}")
    config = ensemble.provenance(0).get("config")
    if not isinstance(config, Mapping):
        raise InputError(f"{path} does not say the config that it was made with, and nothing can be built")
    described = _selected(_described(config, given.get("observables"), path), given.get("only"))
    with explained(f"the config of {path} is not one of a run"):
        system = System({**config, "observables": {}}, device)
    context = {"lattice": system.lattice, "group": system.space, "space": system.space}
    observables = {
        name: instantiate(c, Observable, **context)  # type: ignore[type-abstract]
        for name, c in described.items()
    }
    system.space.check_field(ensemble[0], system.lattice)
    for name in observables:
        labels_to_resume(ensemble, name, described[name], seed, device)
    found = {}
    try:
        for name, observable in observables.items():
            found[name] = measure_labels(
                path, name, observable, described[name], seed, n, device, f"labelling {name}"
            )
    except KeyboardInterrupt:
        same = " ".join(shlex.quote(f"{key}={value}") for key, value in given.items())
        console.print(
            f"what was measured is kept; go on with: lattice-lightning label {same}", soft_wrap=True,
            highlight=False, markup=False,
        )
        raise
    console.print(_table(found))
    return found


def _device(given: Any) -> torch.device:
    """The device that text names."""
    text = "cuda" if given == "gpu" else str(given)
    try:
        device = torch.device(text)
    except RuntimeError:
        raise InputError(f"device must be cpu, gpu or cuda:NUMBER, got {given!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu, gpu or cuda:NUMBER, got {given!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise InputError(f"device={given}, but torch {torch.__version__} sees {there} GPUs; use device=cpu")
    return device


def _described(config: Mapping[str, Any], given: Any, path: Path) -> dict[str, Any]:
    """Configs of the observables by name, interpolations resolved."""
    where = "observables"
    if given is None:
        found: Any = config.get("observables") or {}
    elif isinstance(given, Mapping):
        found = given
    elif str(given).lstrip().startswith("{"):
        try:
            found = yaml.safe_load(str(given))
        except yaml.YAMLError:
            raise InputError(f"cannot read observables={given}: a quote or bracket is open") from None
    else:
        file = config_folder() / "observables" / f"{check_name('observables', given)}.yaml"
        if not file.is_file():
            known = sorted(p.stem for p in file.parent.glob("*.yaml"))
            near = get_close_matches(str(given), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"no observables are called {str(given)!r}; {hint}Known: {', '.join(known)}, or a mapping "
                "like 'observables={name: {_target_: ...}}'"
            )
        found, where = OmegaConf.to_container(OmegaConf.load(file)), f"observables={given}"
    if not isinstance(found, Mapping):
        raise InputError(f"observables must be like {{name: {{_target_: ...}}}}, got {found!r}")
    if given is None:
        # resolved when the ensemble was made
        resolved: Any = found
    else:
        try:
            # in the context of the ensemble's config, where ${action.fermion.mass} stands
            whole = OmegaConf.create({**config, "observables": dict(found)})
            resolved = OmegaConf.to_container(whole.observables, resolve=True)
        except (OmegaConfBaseException, ValueError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{where} does not fit the config of {path} ({line}); give the values themselves, as in "
                "'observables={name: {_target_: ..., mass: 0.1}}'"
            ) from error
    return {str(name): entry for name, entry in resolved.items() if entry}


def _selected(described: dict[str, Any], only: Any) -> dict[str, Any]:
    if not described:
        raise InputError("there is no observable to measure; choose some, as in observables=plaquette")
    if only is None:
        return described
    wanted = [only] if isinstance(only, str) else only
    if not isinstance(wanted, list) or not wanted or any(str(name) not in described for name in wanted):
        raise InputError(
            f"only must name some of {', '.join(described)}, as in only=[{next(iter(described))}], "
            f"got {only!r}"
        )
    return {str(name): described[str(name)] for name in wanted}


def _table(found: Mapping[str, Labels]) -> Table:
    table = Table("labels", "observable", "chains x configurations", "value", "seconds a configuration")
    for key, labels in found.items():
        for name in labels.names:
            result = estimate(labels[name], name)
            table.add_row(
                key, name, f"{labels.chains} x {len(labels)}", format_error(result.value, result.error),
                f"{labels.seconds_per_configuration:.3g}",
            )
    return table
