"""Numbers with errors, and the table of a summary, as text."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import hypot, sqrt
from typing import Any

from rich.table import Table

from lattice_lightning.analysis.errors import format_entry

__all__ = [
    "FLOW_COLUMNS", "HALVED", "doubts", "enough_draws", "flow_cells", "halving_cell", "has_weights",
    "markdown_lines", "rows_of", "shared_observables", "summary_table",
]


def markdown_lines(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of markdown.

    Example:
        >>> markdown_lines(("a", "b"), [("1", "2")])
        ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]


def rows_of(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All rows of a summary, baselines first, the headline last."""
    yield from summary["baselines"].items()
    yield summary.get("row", summary["experiment"]), summary


def has_weights(summary: Mapping[str, Any]) -> bool:
    """Whether any row has importance weights: a flow, or annealing."""
    return any(row["sampling"].get("ess") for _, row in rows_of(summary))


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Acceptance, cost and observables of every row, for the terminal."""
    rows = list(rows_of(summary))
    flows = has_weights(summary)
    shown = [n for n in shared_observables(summary) if n not in {
        "polyakov_loop", "polyakov_loop_x", "polyakov_loop_y", "polyakov_loop_z"}]
    table = Table(title=f"{summary['experiment']} (! marks an error that is not reliable)")
    columns = FLOW_COLUMNS if flows else ("row", "parameters", "acceptance", "<exp(-dH)>", "held-out loss")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for name in shown:
        for long, short in SHORT.items():
            name = name.replace(long, short)
        table.add_column(name, no_wrap=True)
    table.add_column("s / eff. sample", no_wrap=True)
    for name, row in rows:
        sampling = row["sampling"]
        if flows:
            cells = flow_cells(name, row)
        else:
            held = (row.get("held_out") or {}).get("pair_loss") or {}
            cells = [
                name, str(row["model"]["n_parameters"]), format_entry(sampling["acceptance"]),
                format_entry(sampling["exp_minus_dH"]), format_entry(held),
            ]
        for observable in shown:
            entry = row["observables"][observable]
            cells.append(format_entry(entry) + ("" if entry["reliable"] else " !"))
        cost = sampling["seconds_per_effective_sample"]
        seconds = cost["without_training"]
        cells.append("-" if seconds is None else f"{seconds:.3g}" + ("" if cost.get("reliable") else " !"))
        table.add_row(*cells)
    return table


SHORT = {
    "polyakov_loop": "L", "chiral_": "", "topological_charge": "Q", "topological_susceptibility": "chi_Q",
    "wilson_loop": "W", "magnetisation_squared": "V M^2",
}
ENOUGH_DRAWS = 100
HALVED = "steps halved: change of log q / log w / log Z"
FLOW_COLUMNS = ("row", "parameters", "steps", "training s", "ESS", "acceptance", "Var(log w)", "log Z")


def enough_draws(sampling: Mapping[str, Any]) -> bool:
    """Whether weights, if any, rest on ``ENOUGH_DRAWS`` effective draws; errors of fewer are too small."""
    ess = sampling.get("ess")
    return not ess or ess["value"] * ess["n"] >= ENOUGH_DRAWS


def flow_cells(name: str, row: Mapping[str, Any]) -> list[str]:
    """The entries of ``FLOW_COLUMNS`` for one row."""
    sampling, training = row["sampling"], row["training"]
    variance, ess = sampling.get("var_log_w"), sampling.get("ess")
    doubtful = "" if enough_draws(sampling) else " !"
    return [
        name, str(row["model"]["n_parameters"]),
        "" if training is None else str(training["steps"]),
        "" if training is None else f"{training['seconds']:.0f}",
        format_entry(ess) + doubtful, format_entry(sampling["acceptance"]),
        "" if variance is None else f"{variance:.3g}", _log_z_cell(sampling.get("log_z")) + doubtful,
    ]


def _log_z_cell(log_z: Mapping[str, Any] | None) -> str:
    """log Z, with its pull against the exact value or, where rounding is all its error, the difference."""
    if not log_z or log_z["value"] is None or "exact" not in log_z:
        return format_entry(log_z)
    difference, error = log_z["value"] - log_z["exact"], log_z["error"] or 0.0
    if error < 1e-9:
        return f"{log_z['value']:.10f} [exact to {abs(difference):.0e}]"
    return f"{format_entry(log_z)} [{difference / error:+.1f}]"


def shared_observables(summary: Mapping[str, Any]) -> list[str]:
    """Observables that every row has."""
    rows = list(rows_of(summary))
    return [n for n in rows[0][1]["observables"] if all(n in r["observables"] for _, r in rows)]


def doubts(summary: Mapping[str, Any]) -> list[str]:
    """What the run does not resolve, one sentence each."""
    found = []
    for name, row in rows_of(summary):
        sampling, observables = row["sampling"], row["observables"]
        bad: dict[str, list[str]] = {}
        for observable, entry in observables.items():
            if not entry["reliable"]:
                # the report's tables have the numbers
                kind = re.sub(r"\s*[:(].*", "", str(entry.get("reason")))
                bad.setdefault(kind, []).append(observable)
        if bad:
            listed = "; ".join(f"{reason} ({', '.join(names)})" for reason, names in bad.items())
            found.append(f"{name}: errors that are not reliable: {listed}.")
        held = row.get("held_out") or {}
        for key in ("pair_loss", "against"):
            entry = held.get(key) or {}
            if entry.get("reliable") is False:
                what = "held-out loss" if key == "pair_loss" else "held-out loss's difference"
                found.append(f"{name}: the error of the {what} is not reliable ({entry['reason']}).")
        weight = sampling["exp_minus_dH"]
        # the variance of exp(-dH) is exp(Var dH) - 1
        if (sampling["var_dH"] or 0) > 1.5:
            found.append(
                f"{name}: Var(dH) = {sampling['var_dH']:.2g} is too large for <exp(-dH)> to test anything."
            )
        elif weight["error"] and abs(weight["value"] - 1) > 3.5 * weight["error"]:
            found.append(
                f"{name}: <exp(-dH)> = {format_entry(weight)} is not one: the chain is out of "
                "equilibrium, or the kernel is wrong."
            )
        if sampling.get("n_failed"):
            found.append(
                f"{name}: {sampling['n_failed']} trajectories ended without a finite dH; "
                "they were rejected."
            )
        found += _weights(name, sampling)
        comparison = row["comparison"]
        if comparison and comparison["dof"] and comparison["p_value"] < 0.01:
            found.append(
                f"{name}: differs from its reference, chi^2 / dof = {comparison['chi2']:.1f} / "
                f"{comparison['dof']}, p = {comparison['p_value']:.2g}."
            )
    found += _log_z(summary)
    found += _centre_sectors(summary)
    return found


def _weights(name: str, sampling: Mapping[str, Any]) -> list[str]:
    """Whether the effective sample size rests on enough draws."""
    found = []
    if sampling.get("n_failed_draws"):
        found.append(
            f"{name}: {sampling['n_failed_draws']} draws have no finite weight; they count as weight zero."
        )
    if not enough_draws(sampling):
        ess = sampling["ess"]
        found.append(
            f"{name}: the effective sample size rests on {ess['value'] * ess['n']:.1f} effective draws of "
            f"{ess['n']}: too few for it or log Z to be trusted."
        )
    return found + _integration(name, sampling)


def halving_cell(sampling: Mapping[str, Any]) -> str:
    """The cell of column ``HALVED``: changes of log q (rms), log w (standard deviation), log Z."""
    halving = sampling.get("step_halving") or {}
    values = (halving.get(key) for key in ("log_q", "log_w", "log_z"))
    return " / ".join("" if value is None else f"{value:.1g}" for value in values) if halving else ""


def _integration(name: str, sampling: Mapping[str, Any]) -> list[str]:
    """Whether a continuous flow's log q is that of its map, to the errors that are quoted."""
    halving = sampling.get("step_halving") or {}
    log_z, spread = sampling.get("log_z") or {}, sampling.get("var_log_w")
    shift, change, density = halving.get("log_z"), halving.get("log_w"), halving.get("log_q")
    found = []
    if density is not None and density > 0.01:
        found.append(
            f"{name}: halved integration steps change log q by {density:.2g} (rms), more than 0.01: raise "
            "n_steps of the flow."
        )
    if shift is not None and log_z.get("error") and abs(shift) > log_z["error"]:
        found.append(
            f"{name}: halved integration steps move log Z by {-shift:.2g}, more than its error "
            f"{log_z['error']:.2g}: log q is not that of the map; raise n_steps of the flow."
        )
    if change is not None and spread is not None and change > 0.1 * sqrt(spread):
        found.append(
            f"{name}: halved integration steps change log w by {change:.2g}, more than a tenth of its "
            f"standard deviation {sqrt(spread):.2g}: raise n_steps of the flow."
        )
    return found


def _log_z(summary: Mapping[str, Any]) -> list[str]:
    """Whether rows of one point, which share their target, agree on log Z."""
    found = []
    points: dict[str, list[tuple[str, float, float]]] = {}
    for name, row in rows_of(summary):
        log_z = row["sampling"].get("log_z") or {}
        if log_z.get("error") and enough_draws(row["sampling"]):
            points.setdefault(name.rpartition("/")[0], []).append((name, log_z["value"], log_z["error"]))
    for known in points.values():
        best = min(known, key=lambda k: k[2])
        for name, value, error in known:
            sigma = (value - best[1]) / hypot(error, best[2])
            if name != best[0] and abs(sigma) > 3.5:
                found.append(
                    f"{name}: log Z is {abs(sigma):.1f} errors from that of {best[0]}: one of them misses "
                    "part of the target."
                )
    return found


def _centre_sectors(summary: Mapping[str, Any]) -> list[str]:
    """Whether -L_x, -L_y, -L_z and L_t agree, where they must (SU(2) on L^d)."""
    found = []
    for name, row in rows_of(summary):
        observables = row["observables"]
        if "polyakov_loop_symmetrised" not in observables:
            continue
        axes = [a for a in "xyz" if f"polyakov_loop_{a}" in observables]
        signed = [(a, -observables[f"polyakov_loop_{a}"]["value"],
                   observables[f"polyakov_loop_{a}"]["error"]) for a in axes]
        t = observables["polyakov_loop_t"]
        signed.append(("t", t["value"], t["error"]))
        values = [v for _, v, _ in signed]
        worst = max(signed, key=lambda s: abs(s[1] - sum(values) / len(values)) / (s[2] or 1e9))
        deviation = abs(worst[1] - sum(values) / len(values)) / (worst[2] or 1e9)
        if deviation > 3:
            found.append(
                f"{name}: -L_x, -L_y, -L_z and L_t do not agree ({worst[0]} is {deviation:.1f} errors off "
                "their mean): the centre sectors are not equilibrated, observables are of this start."
            )
    return found
