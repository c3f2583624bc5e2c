"""The rows of an experiment: which sampler, which effective action, how it trains."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import check_integer, check_name

__all__ = ["SAMPLERS", "expand_rows", "is_trained"]

SAMPLERS = ("hmc", "self_learning_hmc")
_KEYS = {"sampler", "effective", "train", "training", "checkpoint"}


def expand_rows(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows with the defaults of ``training`` and ``min_mass`` filled in.

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
        if unknown := set(given) - _KEYS:
            raise InputError(f"row {name!r} has no key {sorted(unknown)}; known: {sorted(_KEYS)}")
        if given.get("sampler") not in SAMPLERS:
            raise InputError(
                f"row {name!r}: sampler must be one of {', '.join(SAMPLERS)}, got {given.get('sampler')!r}"
            )
        row = deepcopy(dict(given))
        training = deepcopy(dict(config["training"]))
        if unknown := set(row.get("training") or {}) - set(training):
            raise InputError(
                f"row {name!r}: training has no key {sorted(unknown)}; known: {sorted(training)}"
            )
        own = row.get("training") or {}
        training.update({key: _merged(training[key], value) for key, value in own.items()})
        row["training"], row["min_mass"] = training, config.get("min_mass")
        if row["sampler"] == "self_learning_hmc":
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
        elif row.get("effective"):
            raise InputError(f"row {name!r}: hmc has no effective action; use self_learning_hmc")
        expanded[name] = row
    return expanded


def _merged(default: Any, given: Any) -> Any:
    """The default with what is given over it; another ``_target_`` takes nothing of the default."""
    if isinstance(default, Mapping) and isinstance(given, Mapping) and "_target_" not in given:
        return {**default, **{key: _merged(default.get(key), value) for key, value in given.items()}}
    return given


def is_trained(row: Mapping[str, Any]) -> bool:
    """Whether the row is fitted in this run (not hmc, not ``train: false``, not from a checkpoint)."""
    return (
        row["sampler"] == "self_learning_hmc"
        and row.get("train") is not False
        and not row.get("checkpoint")
    )
