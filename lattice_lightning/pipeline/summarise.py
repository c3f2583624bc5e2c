"""From histories to summary.json."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lattice_lightning import __version__
from lattice_lightning.analysis import (
    Estimate,
    acceptance,
    compare,
    estimate,
    exp_minus_dH,
    observable_entry,
    value_error,
)
from lattice_lightning.callbacks import SamplingResult
from lattice_lightning.methods import ActionRegression
from lattice_lightning.pipeline.fit import Fitted

__all__ = ["estimates", "held_out_entry", "row_summary", "summarise"]


def estimates(result: SamplingResult, exact: Mapping[str, float] | None = None) -> dict[str, Estimate]:
    """Every observable of a sampling run with its error."""
    exact = exact or {}
    return {
        name: estimate(series, name, exact.get(name))
        for name, series in result.history.observables.items()
    }


def row_summary(
    kernel_name: str,
    method: ActionRegression | None,
    fitted: Fitted | None,
    result: SamplingResult,
    observables: Mapping[str, Estimate],
    reversal_error: float | None = None,
    learned: bool = False,
) -> dict[str, Any]:
    """One row of summary.json, without its comparison; ``learned``: here or before, in a checkpoint."""
    history = result.history
    delta = history["delta_H"]
    finite = delta[torch.isfinite(delta)]
    n_chains, n_steps = history["accepted"].shape
    # a symmetrised or squared copy has the memory of what it is made of; all count
    effective = [o.n_effective for o in observables.values()]
    known = [n for n in effective if n is not None]
    n_effective = min(known) if known and len(known) == len(effective) else None
    seconds = result.seconds
    training = fitted.seconds + fitted.stream_seconds if fitted else 0.0
    cost: dict[str, float | bool | None] = {"with_training": None, "without_training": None}
    if n_effective:
        cost = {
            "with_training": (seconds + training) / n_effective,
            "without_training": seconds / n_effective,
        }
    # an autocorrelation time that cannot be trusted makes a cost that cannot
    cost["reliable"] = bool(n_effective) and all(o.reliable for o in observables.values())
    iterations = {
        name: float(history[f"iterations_{name}"].mean()) if f"iterations_{name}" in history else None
        for name in ("md", "accept")
    }
    network = None if method is None else method.effective.network
    return {
        "model": {
            "name": "none" if method is None else type(network).__name__ if network else "linear",
            "n_parameters": method.effective.n_parameters if method is not None and learned else 0,
            **({} if method is None else {"coefficients": coefficients(method)}),
        },
        "training": fitted.as_dict() if fitted else None,
        "sampling": {
            "kernel": kernel_name,
            "n_chains": int(n_chains),
            "n_steps": int(n_steps),
            "seconds": seconds,
            "acceptance": value_error(acceptance(history["accepted"])),
            "exp_minus_dH": value_error(exp_minus_dH(delta)),
            "var_dH": float(finite.var()) if finite.numel() > 1 else None,
            "n_failed": int(delta.numel() - finite.numel()),
            "n_effective": n_effective,
            "solver_iterations": iterations,
            "reversal_error": reversal_error,
            "seconds_per_effective_sample": cost,
        },
        "observables": {name: observable_entry(o) for name, o in observables.items()},
    }


def coefficients(method: ActionRegression) -> dict[str, float]:
    """Linear coefficients by term."""
    values = method.effective.coefficients.detach().cpu().tolist()
    return dict(zip(method.effective.term_names, values, strict=True))


def held_out_entry(name: str, losses: Mapping[str, Tensor], reference: str | None) -> dict[str, Any]:
    """Held-out pair loss of a row, and its paired difference to a reference row.

    The difference is taken trajectory by trajectory, so what both rows share cancels.
    """
    loss = estimate(losses[name], "held-out loss")
    entry: dict[str, Any] = {
        "pair_loss": {**value_error(loss), "reliable": loss.reliable, "reason": loss.reason}
    }
    if reference is not None and reference != name:
        difference = estimate(losses[name] - losses[reference], "difference of held-out losses")
        sigma = difference.value / difference.error if difference.error else None
        entry["against"] = {
            "row": reference,
            "difference": difference.value,
            "error": difference.error,
            "sigma": sigma,
            "reliable": difference.reliable,
            "reason": difference.reason,
        }
    return entry


def summarise(
    config: Mapping[str, Any],
    device: torch.device,
    rows: Mapping[str, dict[str, Any]],
    observables: Mapping[str, Mapping[str, Estimate]],
    reference: str | None,
) -> dict[str, Any]:
    """The whole summary: the last row on top, the others its baselines.

    Args:
        config: resolved plain config.
        device: that the run was on.
        rows: of :func:`row_summary`.
        observables: estimates of every row.
        reference: row that all are compared with (HMC); None for comparing with exact values.
    """
    complete = {}
    for name, row in rows.items():
        if reference is None:
            comparison: dict[str, Any] | None = compare_exact(observables[name])
        elif name == reference:
            comparison = None
        else:
            comparison = compare(observables[name], observables[reference])
        complete[name] = {**row, "comparison": comparison}
    *others, headline = complete
    return {
        "experiment": config["name"],
        "version": __version__,
        "seed": int(config["seed"]),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "config": dict(config),
        "row": headline,
        **complete[headline],
        "baselines": {name: complete[name] for name in others},
    }


def compare_exact(observables: Mapping[str, Estimate]) -> dict[str, Any]:
    """Comparison with the exact values that are known."""
    exact = {
        name: Estimate(o.exact, 0.0, None, None, None, None, None, True, None, 0, 0)
        for name, o in observables.items()
        if o.exact is not None
    }
    return compare({n: observables[n] for n in exact}, exact)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type
