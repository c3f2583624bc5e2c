"""report.html: one file with the plots inside, which opens offline."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lattice_lightning.analysis import plots
from lattice_lightning.analysis.errors import format_entry
from lattice_lightning.analysis.html import STYLE, html_image, html_table, write_html
from lattice_lightning.analysis.tables import (
    FLOW_COLUMNS,
    HALVED,
    doubts,
    flow_cells,
    halving_cell,
    has_weights,
    rows_of,
)

__all__ = ["write_report"]

def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _flows(summary: Mapping[str, Any], headline: str) -> str:
    """Rows with weights beside the others, a table a point."""
    points: dict[str, list[list[str]]] = {}
    parameters = {}
    for name, row in rows_of(summary):
        sampling, point = row["sampling"], name.rpartition("/")[0]
        parameters[point] = row.get("parameters") or {}
        loss = (row["training"] or {}).get("loss") or {}
        points.setdefault(point, []).append(
            [
                *flow_cells(name, row), _number(loss.get("first"), ".4g"), _number(loss.get("last"), ".4g"),
                format_entry(sampling.get("acceptance_of_draws")),
                str((sampling.get("ess") or {}).get("n", "")), str(sampling.get("n_failed_draws", "")),
                format_entry(sampling.get("tunnelling_rate")), format_entry(sampling.get("ess_target")),
                halving_cell(sampling),
            ]
        )
    header = (*FLOW_COLUMNS, "loss first", "loss last", "acceptance of draws", "draws", "failed draws",
              "tunnelling rate", "ESS of HMC's fields", HALVED)
    text = ""
    for point, lines in points.items():
        if point:
            theory = {key: parameters[point].get(key) for key in ("lattice", "group", "action")}
            text += f"<h3>{escape(point)}</h3><p class=\"muted\">{escape(_short(theory))}</p>"
        text += html_table(header, lines, headline)
    return text


def _short(theory: Mapping[str, Any]) -> str:
    """Lattice, group and couplings in a line."""
    couplings = [
        f"{key} = {value}"
        for options in (theory["action"] or {}).values()
        for key, value in (options or {}).items()
        if key != "_target_" and value is not None
    ]
    lattice = "x".join(map(str, theory["lattice"] or []))
    return f"{theory['group']} on {lattice}; {', '.join(couplings)}"


def _judgements(summary: Mapping[str, Any]) -> str:
    """Pulls of every row against exact values, judged together."""
    judged = summary.get("judgement")
    if not judged or "pulls" in judged:
        # that of a scan, of all its pulls, is printed
        return ""
    lines = [
        [
            row, str(len(j["pulls"])), f"{j['largest']:.2f}", f"{j['chi2']:.1f}", f"{j['p_value']:.3g}",
            str(len(j["without_error"])), "agrees" if j["ok"] else "does not agree !",
        ]
        for row, j in judged.items()
    ]
    header = ("row", "pulls", "largest", "chi^2", "p-value", "values without error", "verdict")
    return f"<h2>Against exact values, all points together</h2>{html_table(header, lines)}"


def _samplers(summary: Mapping[str, Any], headline: str) -> str:
    if has_weights(summary):
        return _flows(summary, headline)
    lines = []
    for name, row in rows_of(summary):
        held = row.get("held_out") or {}
        against = held.get("against") or {}
        versus = ""
        if against.get("sigma") is not None:
            versus = f"{against['sigma']:+.1f} sigma against {against['row']}"
        sampling = row["sampling"]
        lines.append(
            [
                name, str(row["model"]["n_parameters"]), format_entry(sampling["acceptance"]),
                format_entry(sampling["exp_minus_dH"]), _number(sampling["var_dH"]),
                format_entry(held.get("pair_loss")), versus,
            ]
        )
    header = ("row", "parameters", "acceptance", "<exp(-dH)>", "Var(dH)", "held-out pair loss",
              "paired difference")
    return html_table(header, lines, headline)


def _observables(summary: Mapping[str, Any], headline: str) -> str:
    rows = list(rows_of(summary))
    names = list(dict.fromkeys(n for _, row in rows for n in row["observables"]))
    parts = []
    for name in names:
        lines = []
        for row_name, row in rows:
            entry = row["observables"].get(name)
            if entry is None:
                continue
            comparison = (row["comparison"] or {}).get(name) or {}
            sigma = comparison.get("sigma")
            lines.append(
                [
                    row_name, format_entry(entry) + ("" if entry["reliable"] else " !"),
                    _number(entry["error_gamma"], ".2g"), _number(entry["error_chains"], ".2g"),
                    _number(entry["tau_int"], ".1f"), _number(entry["rhat"], ".3f"),
                    "" if sigma is None else f"{sigma:+.2f}",
                    _number(entry.get("exact"), ".6g") if "exact" in entry else "",
                ]
            )
        header = (name, "value", "error (Gamma)", "error (chains)", "tau_int", "R-hat", "pull", "exact")
        parts.append(html_table(header, lines, headline))
    return "".join(parts)


def _costs(summary: Mapping[str, Any], headline: str) -> str:
    lines = []
    for name, row in rows_of(summary):
        sampling, training = row["sampling"], row["training"]
        n = sampling["n_steps"]
        mark = "" if sampling["seconds_per_effective_sample"].get("reliable") else " !"
        cost, iterations = sampling["seconds_per_effective_sample"], sampling["solver_iterations"]
        lines.append(
            [
                name, "" if training is None else str(training["steps"]),
                "" if training is None else f"{training['seconds']:.0f}",
                "" if training is None else f"{training.get('stream_seconds', 0):.0f}",
                f"{sampling['seconds']:.0f}", f"{sampling['seconds'] / n:.3g}",
                _number(iterations["md"], ".0f"), _number(iterations["accept"], ".0f"),
                _number(sampling["n_effective"], ".0f"),
                _number(cost["without_training"]) + mark, _number(cost["with_training"]) + mark,
                _number(sampling.get("reversal_error"), ".1e"),
            ]
        )
    header = (
        "row", "training steps", "training s", "its HMC stream s", "sampling s",
        "s / trajectory (all chains)", "CG in MD", "CG in accept", "effective samples",
        "s / effective sample", "training included",
        "reversal error of H",
    )
    return html_table(header, lines, headline)


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    histories: plots.Histories,
    log_weights: Mapping[str, plots.Array] | None = None,
) -> Path:
    """Write the report of a run.

    Args:
        path: file to write.
        summary: validated summary.
        metrics: entries of metrics.csv.
        histories: ``{row: {name: [chains, steps]}}``.
        log_weights: of direct draws, ``{row: [n]}``.
    """
    headline = str(summary.get("row", summary["experiment"]))
    config = summary["config"]
    found = doubts(summary)
    verdict = "".join(f'<div class="doubt">{escape(d)}</div>' for d in found)
    if not found:
        verdict = '<div class="fine">Every error is reliable and every comparison within its errors.</div>'
    correlations = "".join(
        html_image(plots.autocorrelation_figure(histories, name), f"Autocorrelation of {name}, by row.")
        for name in ("plaquette", "polyakov_loop_symmetrised", "chiral_condensate",
                     "topological_charge", "magnetisation_squared")
    )
    integrated = {
        name: histories[name]
        for name, row in rows_of(summary)
        if name in histories and row["sampling"]["exp_minus_dH"]["value"] is not None
    }
    lattice = "x".join(str(extent) for extent in config.get("lattice", []))
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(summary["experiment"])}</title><style>{STYLE}</style>
<h1>{escape(summary["experiment"])}</h1>
<p class="muted">{escape(str(config.get("group", "")))} on {lattice}; seed {summary["seed"]};
{escape(summary["device"])}, {summary["threads"]} threads;
lattice_lightning {escape(summary["version"])}</p>
<h2>What this run does not resolve</h2>{verdict}
<h2>Samplers</h2>{_samplers(summary, headline)}
<p class="muted">Every row: same number of chains and steps, same integrator unless the config says
otherwise, accepted with the true action. Errors: the larger of Gamma method and chain means.</p>
{html_image(plots.training_figure(metrics, list(histories)),
        "Training loss (faint: every batch) and what short exact runs or direct draws beside it say.")}
{html_image(plots.log_weights_figure(log_weights or {}),
        "Log weights of direct draws against log Z: a perfect sampler has all of them at zero.")}
{html_image(plots.points_figure(summary), "Quality of every row against the point.")}
{html_image(plots.delta_h_figure(integrated), "Energy change that the accept step sees.")}
{_judgements(summary)}
<h2>Observables</h2>
{html_image(plots.observables_figure(summary),
        "Open symbols: error not reliable. Numbers: pull against the reference row. Black: exact.")}
{html_image(plots.polyakov_figure(histories), "Polyakov loops in every direction, up to 8 chains a row.")}
{correlations}
{_observables(summary, headline)}
<h2>Costs</h2>{_costs(summary, headline)}
<h2>Config</h2><details><summary>resolved config</summary>
<pre>{escape(OmegaConf.to_yaml(OmegaConf.create(dict(config))))}</pre></details></html>"""
    return write_html(path, body)
