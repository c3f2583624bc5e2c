"""From histories to summary.json."""

from collections.abc import Mapping
from math import inf, isfinite
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
    tunnelling_rate,
    value_error,
)
from lattice_lightning.callbacks import SamplingResult
from lattice_lightning.methods import ActionRegression
from lattice_lightning.metrics.weights import weight_statistics
from lattice_lightning.models import FlowModel
from lattice_lightning.pipeline.fit import Fitted
from lattice_lightning.pipeline.importance import Draws
from lattice_lightning.samplers import History

__all__ = ["estimates", "held_out_entry", "row_summary", "summarise"]

UNKNOWN = {"value": None, "error": None}


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
    flow: FlowModel | None = None,
    draws: Draws | None = None,
    borrowed: float = 0.0,
) -> dict[str, Any]:
    """One row of summary.json, without its comparison; ``learned``: here or before, in a checkpoint.

    Args:
        kernel_name: sampler of the row.
        method: with its effective action.
        fitted: what training took; of the row that trained it, where a row samples with its flow.
        result: of exact sampling.
        observables: their estimates.
        reversal_error: of molecular dynamics.
        learned: whether the parameters were, here or before, in a checkpoint.
        flow: that the row samples with.
        draws: direct draws of it.
        borrowed: seconds of training that weights from a file took, for the cost.
    """
    history, weighs = result.history, kernel_name in ("independence", "alternating", "annealed")
    delta = history["delta_H"]
    finite = delta[torch.isfinite(delta)]
    n_chains, n_steps = history["accepted"].shape
    # a symmetrised or squared copy has the memory of what it is made of; all count
    effective = [o.n_effective for o in observables.values()]
    known = [n for n in effective if n is not None]
    n_effective = min(known) if known and len(known) == len(effective) else None
    seconds = result.seconds
    training = fitted.seconds + fitted.stream_seconds if fitted else borrowed
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
    return {
        "model": _model_entry(method, flow, learned),
        "training": fitted.as_dict() if fitted else None,
        "sampling": {
            "kernel": kernel_name,
            "n_chains": int(n_chains),
            "n_steps": int(n_steps),
            "seconds": seconds,
            "acceptance": value_error(acceptance(history["accepted"])),
            # of an independent draw the weight ratio says nothing that the weights do not say better
            "exp_minus_dH": UNKNOWN if weighs else value_error(exp_minus_dH(delta)),
            "var_dH": None if weighs else _variance(finite),
            "n_failed": int(delta.numel() - finite.numel()),
            "n_effective": n_effective,
            "solver_iterations": iterations,
            "reversal_error": reversal_error,
            "seconds_per_effective_sample": cost,
            **tunnelling(history),
            **({} if draws is None else weights_entry(draws)),
        },
        "observables": {name: observable_entry(o) for name, o in observables.items()},
    }


def _variance(values: Tensor) -> float | None:
    """Variance, None where it is not a finite number."""
    variance = float(values.var()) if values.numel() > 1 else inf
    return variance if isfinite(variance) else None


def _model_entry(
    method: ActionRegression | None, flow: FlowModel | None, learned: bool
) -> dict[str, Any]:
    if flow is not None:
        return {"name": type(flow.flow).__name__, "n_parameters": flow.n_parameters}
    if method is None:
        return {"name": "none", "n_parameters": 0}
    network, masses = method.effective.network, method.effective.mass_weights
    return {
        "name": type(network).__name__ if network else "linear",
        "n_parameters": method.effective.n_parameters if learned else 0,
        "coefficients": coefficients(method),
        **({} if masses is None else {"learned_masses": masses.tolist()}),
    }


def weights_entry(draws: Draws) -> dict[str, Any]:
    """What the log weights of direct draws say: ESS, log Z, Var(log w), failures, their seconds."""
    found = weight_statistics(draws.log_weights).as_dict()
    acceptance_of_draws, n_failed = found.pop("acceptance"), found.pop("n_failed")
    variance, ess = found.pop("var_log_w"), found["ess"]
    effective = (ess["value"] or 0.0) * ess["n"]
    return {
        **found, "var_log_w": variance["value"], "var_log_w_error": variance["error"],
        "acceptance_of_draws": acceptance_of_draws, "n_failed_draws": n_failed,
        "seconds_draws": draws.seconds,
        "seconds_per_effective_draw": draws.seconds / effective if effective else None,
        **({} if draws.halving is None else {"step_halving": draws.halving}),
    }


def tunnelling(history: History) -> dict[str, Any]:
    """How often the topological charge changes from one measurement to the next, where there is one."""
    if "topological_charge" not in history or history["topological_charge"].shape[1] < 2:
        return {}
    return {"tunnelling_rate": value_error(tunnelling_rate(history["topological_charge"]))}


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
    reference: str | Mapping[str, str | None] | None,
) -> dict[str, Any]:
    """The whole summary: the last row on top, the others its baselines.

    Args:
        config: resolved plain config.
        device: that the run was on.
        rows: of :func:`row_summary`.
        observables: estimates of every row.
        reference: row that all are compared with (HMC), or one for each row; None for comparing with
            exact values.
    """
    complete = {}
    for name, row in rows.items():
        other = reference.get(name) if isinstance(reference, Mapping) else reference
        if other is None:
            comparison: dict[str, Any] | None = compare_exact(observables[name])
        elif name == other:
            comparison = None
        else:
            comparison = compare(observables[name], observables[other])
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
