"""Exact values that a run is compared with, and all its pulls judged together."""

from collections.abc import Mapping
from typing import Any

from lattice_lightning.actions import GaussianAction, Phi4, WilsonGauge, free_kernel
from lattice_lightning.analysis import Estimate, judge_pulls
from lattice_lightning.analysis.exact_2d import (
    charge_squared_u1,
    log_z_torus,
    plaquette_torus,
    wilson_loop_torus,
)
from lattice_lightning.analysis.tables import enough_draws
from lattice_lightning.exceptions import InputError
from lattice_lightning.observables import WilsonLoop
from lattice_lightning.pipeline.build import System

__all__ = ["exact_values", "judge_rows", "judgement", "known_values"]

ROUNDING = 1e-10


def exact_values(group: str, beta: float, volume: int) -> dict[str, float]:
    """Exact torus values of what is measured, and log Z."""
    values = {"plaquette": plaquette_torus(group, beta, volume)}
    if group == "U(1)":
        values["topological_charge"] = 0.0
        values["topological_susceptibility"] = charge_squared_u1(beta, volume) / volume
    values["log_z"] = log_z_torus(group, beta, volume)
    return values


def known_values(config: Mapping[str, Any], system: System) -> dict[str, float]:
    """The exact values that the config asks for, by observable; empty for ``exact: null``.

    Raises:
        InputError: for another word than ``torus`` or ``free``, or a theory that has no such values.
    """
    kind = config.get("exact")
    if kind is None:
        return {}
    if kind == "free":
        return free_values(system)
    if kind != "torus":
        raise InputError(f"exact must be torus, free or null, got {kind!r}")
    if not isinstance(system.target, WilsonGauge) or system.lattice.ndim != 2:
        raise InputError(
            "exact=torus needs the Wilson gauge action in two dimensions, got "
            f"{type(system.target).__name__} on {system.lattice.shape}"
        )
    place = system.space.name, float(system.target.beta), system.lattice.volume
    loops = {
        f"wilson_loop_{r}x{t}": wilson_loop_torus(*place, area=r * t)
        for observable in system.observables if isinstance(observable, WilsonLoop)
        for r, t in observable.sizes
    }
    return {**exact_values(*place), **loops}


def free_values(system: System) -> dict[str, float]:
    """<phi^2>, V <M^2> and log Z of the free field.

    Raises:
        InputError: for a theory that interacts.
    """
    target = system.target
    if not isinstance(target, Phi4) or target.lam != 0:
        raise InputError(f"exact=free needs phi^4 theory at lam = 0, got {type(target).__name__}")
    kernel = free_kernel(system.lattice, target.m2)
    return {
        "phi2": float((1 / kernel).mean()),
        "magnetisation_squared": 1 / (2 * target.m2),
        "log_z": GaussianAction(system.lattice, kernel).log_z,
    }


def judgement(
    observables: Mapping[str, Mapping[str, Estimate]], more: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """All pulls of estimates with exact values, by ``row observable``, judged together with more."""
    compared = {
        f"{row} {name}": found
        for row, estimated in observables.items()
        for name, found in estimated.items()
        if found.exact is not None
    }
    pulls = {
        name: (found.value - found.exact) / found.error
        for name, found in compared.items()
        if found.exact is not None and found.error
    }
    pulls |= more or {}
    without_error = [name for name in compared if name not in pulls]
    judged = judge_pulls(pulls.values())
    return {
        "pulls": pulls, "without_error": without_error, "chi2": judged.chi2, "dof": judged.dof,
        "p_value": judged.p_value, "largest": judged.max_abs, "ok": judged.ok and not without_error,
    }


def judge_rows(
    observables: Mapping[str, Mapping[str, Estimate]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A judgement of each row over all points: a frozen baseline must not judge the others.

    Args:
        observables: estimates of every row, named ``row`` or ``point/row``.
        rows: their entries in the summary, for log Z.
    """
    partition: dict[str, dict[str, float]] = {}
    for name, row in rows.items():
        log_z = row["sampling"].get("log_z") or {}
        if "exact" in log_z and log_z["error"] is not None and enough_draws(row["sampling"]):
            # rounding alone is left of an exact flow's error
            error = max(log_z["error"], ROUNDING * max(1.0, abs(log_z["exact"])))
            pull = (log_z["value"] - log_z["exact"]) / error
            partition.setdefault(name.rpartition("/")[2], {})[f"{name} log_z"] = pull
    by_row: dict[str, dict[str, Mapping[str, Estimate]]] = {}
    for name, estimated in observables.items():
        by_row.setdefault(name.rpartition("/")[2], {})[name] = estimated
    judged = {row: judgement(found, partition.get(row)) for row, found in by_row.items()}
    # where nothing exact is known there is nothing to judge
    return {row: j for row, j in judged.items() if j["pulls"] or j["without_error"]}
