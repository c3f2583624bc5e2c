"""The rows of an experiment: which sampler, which model, how it trains."""

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from inspect import signature
from typing import Any

from lattice_lightning import methods
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import check_integer, check_name, check_sampling

__all__ = ["FLOW_SAMPLERS", "SAMPLERS", "expand_rows", "is_trained", "merged"]

_TRAINED = {"train", "training", "checkpoint"}
_FLOW = {"prior", "flow", "flow_of", "warm_start", *_TRAINED}
#: what a row of each sampler may say, beside the sampler
_KEYS: dict[str, set[str]] = {
    "hmc": {"integrator"},
    "self_learning_hmc": {"effective", "integrator", *_TRAINED},
    "independence": _FLOW,
    "alternating": {*_FLOW, "n_flow", "n_hmc", "integrator"},
    "latent_hmc": {*_FLOW, "integrator"},
    "annealed": {"prior", "flow", "flow_of", "checkpoint", "annealing"},
}
SAMPLERS = tuple(_KEYS)
_METHODS = ("ReverseKL", "ContinuityRegression", "SweepRegression")
#: samplers that need a trained flow
FLOW_SAMPLERS = ("independence", "alternating", "latent_hmc")


def expand_rows(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows with the defaults of ``training`` or ``flow_training`` and ``min_mass`` filled in.

    Raises:
        InputError: for an unknown key or sampler, a row without what its sampler needs, or no row.
    """
    rows = config.get("rows") or {}
    if not rows:
        raise InputError("the experiment lists no rows; give at least one sampler")
    expanded = {}
    for name, given in rows.items():
        check_name("the row name", name)
        if not isinstance(given, Mapping):
            raise InputError(f"row {name!r} must be like {{sampler: hmc}}, got {given!r}")
        _check_keys(name, given)
        row = deepcopy(dict(given))
        row["min_mass"] = config.get("min_mass")
        row["sampling"] = _sampling(name, row.get("sampling") or {}, config)
        if row["sampler"] == "self_learning_hmc":
            _expand_effective(name, row, config)
        elif row["sampler"] != "hmc":
            _expand_flow(name, row, config)
        expanded[name] = row
    for name, row in expanded.items():
        _check_source(name, row, expanded)
    return expanded


def _sampling(name: str, own: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """How long the row is sampled: the config's ``sampling`` with the row's differences."""
    default = dict(config["sampling"])
    if not isinstance(own, Mapping) or set(own) - set(default):
        raise InputError(f"row {name!r}: sampling has the keys {sorted(default)}, got {own!r}")
    found = {**default, **own}
    limits = config.get("sampling_limits") or {}
    if unknown := set(limits) - set(default):
        raise InputError(f"sampling_limits has no key {sorted(unknown)}; known: {sorted(default)}")
    for key, most in limits.items():
        found[key] = min(found[key], most)
    check_sampling(found, f"row {name!r}: sampling")
    return found


def _check_keys(name: str, given: Mapping[str, Any]) -> None:
    sampler = given.get("sampler")
    known = _KEYS.get(str(sampler), set().union(*_KEYS.values())) | {"sampler", "sampling"}
    unknown = set(given) - known
    if sampler in _KEYS and sampler != "self_learning_hmc" and given.get("effective"):
        raise InputError(f"row {name!r}: {sampler} has no effective action; use self_learning_hmc")
    if unknown:
        raise InputError(f"row {name!r} has no key {sorted(unknown)}; known: {sorted(known)}")
    if sampler not in SAMPLERS:
        raise InputError(f"row {name!r}: sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")


def _expand_effective(name: str, row: dict[str, Any], config: Mapping[str, Any]) -> None:
    training = deepcopy(dict(config["training"]))
    own = row.get("training") or {}
    if unknown := set(own) - set(training):
        raise InputError(
            f"row {name!r}: training has no key {sorted(unknown)}; known: {sorted(training)}"
        )
    training.update({key: merged(training[key], value) for key, value in own.items()})
    row["training"] = training
    if not row.get("effective") and not row.get("checkpoint"):
        raise InputError(
            f"row {name!r}: self_learning_hmc needs `effective: {{masses: [...]}}`, or "
            "`checkpoint: path` to take what a file holds"
        )
    for key in ("epochs", "trajectories_per_epoch"):
        check_integer(f"row {name!r}: training.{key}", training[key], 1)
    scheduler = training["scheduler"]
    if scheduler and "T_max" in scheduler and "T_max" not in (own.get("scheduler") or {}):
        scheduler["T_max"] = training["epochs"] * training["trajectories_per_epoch"]


def _expand_flow(name: str, row: dict[str, Any], config: Mapping[str, Any]) -> None:
    sources = [key for key in ("flow", "flow_of", "checkpoint") if row.get(key)]
    if row["sampler"] == "annealed":
        if "flow" in sources:
            raise InputError(f"row {name!r}: annealing trains no flow; name one by flow_of or checkpoint")
        if bool(row.get("prior")) == bool(sources):
            raise InputError(
                f"row {name!r}: annealing starts from `prior: {{_target_: ...}}`, or from the flow that "
                "flow_of or checkpoint names: give one of them"
            )
        if not isinstance(row.get("annealing") or {}, Mapping):
            raise InputError(
                f"row {name!r}: annealing must be like {{n_steps: 32}}, got {row['annealing']!r}"
            )
        return
    if len(sources) != 1:
        raise InputError(
            f"row {name!r}: {row['sampler']} needs `prior` and `flow`, or `flow_of: row` for the flow of "
            f"another row, or `checkpoint: path`; got {' and '.join(sources) or 'none of them'}"
        )
    if bool(row.get("prior")) != (sources == ["flow"]):
        raise InputError(f"row {name!r}: `prior` and `flow` belong together")
    if row["sampler"] == "alternating":
        for key in ("n_flow", "n_hmc"):
            row[key] = check_integer(f"row {name!r}: {key}", row.get(key, 1), 1)
    idle = [key for key in ("warm_start", "train") if row.get(key)]
    if sources != ["flow"] and idle:
        raise InputError(
            f"row {name!r} takes a trained flow: {' and '.join(idle)} would do nothing, leave it out"
        )
    if sources == ["flow"]:
        own = row.get("training") or {}
        if not isinstance(own, Mapping):
            raise InputError(f"row {name!r}: training must be like {{batch_size: 64}}, got {own!r}")
        row["training"] = merged(deepcopy(dict(config.get("flow_training") or {})), own)
        limits = config.get("flow_training_limits") or {}
        # one set of limits is for rows of several methods
        known = {key for kind in _METHODS for key in _options(kind)}
        if unknown := set(limits) - known:
            raise InputError(f"flow_training_limits has no key {sorted(unknown)}; known: {sorted(known)}")
        for key, most in limits.items():
            default = _options(row["training"].get("_target_")).get(key)
            value = row["training"].get(key, default)
            if isinstance(value, int):
                row["training"][key] = min(value, most)
    elif row.get("training"):
        raise InputError(f"row {name!r} takes a trained flow; training belongs to the row that trains it")


def _options(target: Any) -> dict[str, Any]:
    """Options of a method that trains flows, with their defaults (None where there is none)."""
    method = getattr(methods, str(target).rpartition(".")[2], None)
    if method is None:
        return {}
    parameters = list(signature(method.__init__).parameters.values())[1:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def _check_source(name: str, row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The row that ``flow_of`` names must have a flow of its own."""
    source = row.get("flow_of")
    if source is None:
        return
    own = [n for n, r in rows.items() if r.get("flow") or (r.get("checkpoint") and "effective" not in r)]
    if source not in own:
        near = get_close_matches(str(source), own, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"row {name!r}: flow_of names {source!r}; {hint}rows with a flow: {', '.join(own) or 'none'}"
        )


def merged(default: Any, given: Any) -> Any:
    """The default with what is given over it; another ``_target_`` takes nothing of the default."""
    if not isinstance(default, Mapping) or not isinstance(given, Mapping):
        return given
    if given.get("_target_", default.get("_target_")) != default.get("_target_"):
        return given
    return {**default, **{key: merged(default.get(key), value) for key, value in given.items()}}


def is_trained(row: Mapping[str, Any]) -> bool:
    """Whether the row is fitted in this run (not hmc, not ``train: false``, not from elsewhere)."""
    learns = row["sampler"] == "self_learning_hmc" or bool(row.get("flow"))
    return learns and row.get("train") is not False and not row.get("checkpoint")
