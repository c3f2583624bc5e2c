"""summary.json: its schema, checked when written and when read."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattice_lightning.analysis.errors import Estimate
from lattice_lightning.exceptions import FormatError, InputError

__all__ = ["load_summary", "observable_entry", "validate_summary", "value_error", "write_summary"]

NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))
VALUE = {"value": OPTIONAL_NUMBER, "error": OPTIONAL_NUMBER}
_OBSERVABLE = {
    **VALUE,
    "error_gamma": OPTIONAL_NUMBER,
    "error_chains": OPTIONAL_NUMBER,
    "tau_int": OPTIONAL_NUMBER,
    "rhat": OPTIONAL_NUMBER,
    "reliable": bool,
}
_ROW: dict[str, Any] = {
    "model": {"name": str, "n_parameters": int},
    "sampling": {
        "kernel": str,
        "n_chains": int,
        "n_steps": int,
        "seconds": NUMBER,
        "acceptance": VALUE,
        "exp_minus_dH": VALUE,
        "var_dH": OPTIONAL_NUMBER,
        "n_effective": OPTIONAL_NUMBER,
        "solver_iterations": {"md": OPTIONAL_NUMBER, "accept": OPTIONAL_NUMBER},
        "seconds_per_effective_sample": {
            "with_training": OPTIONAL_NUMBER,
            "without_training": OPTIONAL_NUMBER,
        },
    },
}
#: in rows with importance weights
_WEIGHTS = {
    "ess": {**VALUE, "n": int},
    "log_z": VALUE,
    "var_log_w": OPTIONAL_NUMBER,
    "n_failed_draws": int,
}
_TRAINING = {
    "steps": int,
    "seconds": NUMBER,
    "loss": {"first": OPTIONAL_NUMBER, "last": OPTIONAL_NUMBER},
}
_TOP = {
    "experiment": str,
    "version": str,
    "seed": int,
    "device": str,
    "threads": int,
    "config": dict,
}


def value_error(estimate: Estimate) -> dict[str, Any]:
    """{value, error} of an estimate."""
    return {"value": estimate.value, "error": estimate.error}


def observable_entry(estimate: Estimate) -> dict[str, Any]:
    """The entry of ``observables`` in summary.json."""
    entry: dict[str, Any] = {
        key: getattr(estimate, key)
        for key in (*_OBSERVABLE, "n_effective", "reason")
    }
    if estimate.exact is not None:
        entry["exact"] = estimate.exact
    return entry


def _check(tree: Any, schema: Any, path: str) -> None:
    if isinstance(schema, dict):
        if not isinstance(tree, Mapping):
            raise InputError(f"summary: {path} must be an object, got {type(tree).__name__}")
        for key, inner in schema.items():
            if key not in tree:
                raise InputError(f"summary: {path}.{key} is missing".replace("summary: .", "summary: "))
            _check(tree[key], inner, f"{path}.{key}")
        return
    expected = schema if isinstance(schema, tuple) else (schema,)
    is_bool = isinstance(tree, bool) and bool not in expected
    if is_bool or not isinstance(tree, expected):
        names = " or ".join(t.__name__ for t in expected)
        raise InputError(f"summary: {path.lstrip('.')} must be {names}, got {tree!r}")


def _finite(tree: Any, path: str) -> None:
    if isinstance(tree, float) and not math.isfinite(tree):
        raise InputError(f"summary: {path.lstrip('.')} is {tree}; write null where nothing is known")
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _finite(value, f"{path}.{key}")
    if isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            _finite(value, f"{path}[{i}]")


def _check_row(row: Mapping[str, Any], path: str) -> None:
    _check(row, _ROW, path)
    for key in ("training", "observables", "comparison"):
        if key not in row:
            raise InputError(f"summary: {f'{path}.{key}'.lstrip('.')} is missing")
    if row["training"] is not None:
        _check(row["training"], _TRAINING, f"{path}.training")
    if "ess" in row["sampling"]:
        _check(row["sampling"], _WEIGHTS, f"{path}.sampling")
    if "tunnelling_rate" in row["sampling"]:
        _check(row["sampling"]["tunnelling_rate"], VALUE, f"{path}.sampling.tunnelling_rate")
    for name, entry in row["observables"].items():
        _check(entry, _OBSERVABLE, f"{path}.observables.{name}")
    if row["comparison"] is not None:
        _check(row["comparison"], {"chi2": NUMBER, "dof": int, "p_value": NUMBER}, f"{path}.comparison")


def validate_summary(summary: Mapping[str, Any]) -> None:
    """Raise InputError naming the path of the first entry that does not fit the schema."""
    _check(summary, _TOP, "")
    if not isinstance(summary.get("baselines"), Mapping):
        raise InputError("summary: baselines must be an object of rows")
    _check_row(summary, "")
    for name, row in summary["baselines"].items():
        _check_row(row, f"baselines.{name}")
    _finite(summary, "")


def write_summary(path: Path, summary: Mapping[str, Any]) -> Path:
    """Validate and write strict JSON, atomically."""
    validate_summary(summary)
    path = Path(path)
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(summary, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def load_summary(path: Path) -> dict[str, Any]:
    """Read and validate.

    Raises:
        FormatError: when the file is not JSON.
    """
    try:
        summary: dict[str, Any] = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    validate_summary(summary)
    return summary
