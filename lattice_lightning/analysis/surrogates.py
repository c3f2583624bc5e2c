"""Table, figure and report of a surrogate run."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lattice_lightning.analysis.errors import Array, format_error
from lattice_lightning.analysis.html import STYLE, html_image, html_table, write_html
from lattice_lightning.analysis.moments import Moments
from lattice_lightning.analysis.planner import Costs, error_at_cost

__all__ = ["HEADER", "PLANNED", "Picture", "gap_doubt", "planned_table", "surrogate_figure",
           "surrogate_table", "write_surrogate_report"]

HEADER = ("surrogate", "r", "uncorrected", "its bias / error", "corrected", "difference / error",
          "labels alone", "everything labelled", "labels", "cost at equal error", "error at equal cost",
          "in iterations", "with trajectories")
PLANNED = ("surrogate", "target error", "labels", "unlabelled", "predicted", "realised")
MAX_DOUBTS = 6
CAPTION = "Predicted against measured; error against cost; averages with their errors."
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4E2D", "#555555")


#: linearised label and approximation of the correction set, ``[chains, n]`` each
Picture = tuple[Array, Array]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def surrogate_table(rows: Mapping[str, Any], cheaper: Mapping[str, Any]) -> list[list[str]]:
    """Lines of text under ``HEADER``, a surrogate each, then labels of everything that cost less."""
    lines = []
    for name, row in rows.items():
        values = [_value(row[key]) for key in ("uncorrected", "corrected", "labels", "full")]
        pulls = ["-" if row[k] is None else f"{row[k]:+.1f}" for k in ("bias_pull", "corrected_pull")]
        share = row["n_labels"] / (row["n_labels"] + row["n_unlabelled"])
        solved = row["iterations"] or {"cost_ratio": None}
        lines.append([
            name, _ratio(row["r"]), values[0], pulls[0], values[1], pulls[1], *values[2:],
            f"{100 * share:.2g} %", *(_ratio(row[key]) for key in ("cost_ratio", "error_ratio")),
            _ratio(solved["cost_ratio"]), _ratio(row["with_trajectories"]),
        ])
    for name, label in cheaper.items():
        empty = [""] * 6
        ratio = _ratio(label["cost_ratio"])
        lines.append([f"all labelled by {name}", *empty, _value(label), "100 %", "", "", ratio, ""])
    return lines


def _value(entry: Mapping[str, Any]) -> str:
    return format_error(entry["value"], entry["error"]) + ("" if entry["reliable"] else " !")


def gap_doubt(gap: Mapping[str, Any]) -> str:
    """What a gap of too few autocorrelation times means."""
    return (
        f"the gap of {gap['gap']} configurations between the sets is {gap['gap'] / gap['tau_int']:.1f} "
        f"tau_int of {gap['slowest']} ({gap['tau_int']:.1f}); what changes that slowly still joins the sets"
    )


def planned_table(rows: Mapping[str, Any]) -> list[list[str]]:
    """Plans made from the training set and carried out, under ``PLANNED``."""
    lines = []
    for name, row in rows.items():
        planned = row["planned"]
        if planned is None:
            why = "no plan: trained elsewhere, or held-out part too short"
            lines.append([name, "-", "-", "-", "-", why])
            continue
        predicted, realised = (
            "-" if planned[key] is None else f"{planned[key]:.2g}" for key in ("predicted", "realised")
        )
        lines.append([
            name, f"{planned['target']:.2g}", str(planned["n_bc"]), str(planned["n_unlabelled"]), predicted,
            planned["why_not"] or realised,
        ])
    return lines


def surrogate_figure(label: str, rows: Mapping[str, Any], pictures: Mapping[str, Picture]) -> Figure:
    """Predicted against true, every average beside the full measurement, and error against cost."""
    figure = Figure(figsize=(10.5, 8.2), layout="constrained")
    (scatter, cost), (averages, legend) = figure.subplots(2, 2)
    palette = COLORS if len(rows) <= len(COLORS) else [f"C{k}" for k in range(10)] + list(COLORS)
    colors = {name: palette[k % len(palette)] for k, name in enumerate(rows)}
    _scatter(scatter, label, pictures, colors)
    _averages(averages, label, rows)
    _error_against_cost(cost, rows, colors)
    legend.axis("off")
    handles = [legend.plot([], [], "o", color=colors[name], label=name)[0] for name in rows]
    handles.append(legend.plot([], [], "-", color="black", label="labels alone (right plot)")[0])
    handles.append(legend.plot([], [], "-", color="#555555", label="surrogate, corrected")[0])
    handles.append(
        legend.plot([], [], ":", color="#555555", label="surrogate, uncorrected: its bias stays")[0]
    )
    legend.legend(handles=handles, fontsize=8, loc="center", frameon=False)
    return figure


def _scatter(
    axes: Axes, label: str, pictures: Mapping[str, Picture], colors: Mapping[str, str]
) -> None:
    lows, highs = [], []
    for name, (exact, approximation) in pictures.items():
        axes.plot(exact.ravel(), approximation.ravel(), ".", ms=2, alpha=0.3, color=colors[name])
        lows.append(np.percentile(exact, 0.2))
        highs.append(np.percentile(exact, 99.8))
    low, high = min(lows), max(highs)
    axes.plot([low, high], [low, high], color="black", lw=1)
    # one surrogate that went astray must not hide the others; its figures stand in the table
    means = [float(np.median(approximation)) for _, approximation in pictures.values()]
    axes.set_ylim(min(low, *means) - 0.3 * (high - low), max(high, *means) + 0.3 * (high - low))
    axes.set_xlabel(f"{label.replace('_', ' ')} of a configuration, measured")
    axes.set_ylabel("predicted, correction set")


def _averages(axes: Axes, label: str, rows: Mapping[str, Any]) -> None:
    for k, row in enumerate(rows.values()):
        for offset, key, color in ((-0.15, "uncorrected", "#D55E00"), (0.15, "corrected", "#0072B2")):
            axes.errorbar(
                row[key]["value"], k + offset, xerr=row[key]["error"] or 0.0, fmt="o", color=color, ms=4,
                capsize=2, label=key if k == 0 else None,
            )
    full = next(iter(rows.values()))["full"]
    axes.axvspan(
        full["value"] - (full["error"] or 0), full["value"] + (full["error"] or 0), color="#bbbbbb",
        label="everything labelled",
    )
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(label.replace("_", " "))
    axes.legend(fontsize=7)


def _error_against_cost(axes: Axes, rows: Mapping[str, Any], colors: Mapping[str, str]) -> None:
    """Errors that the measured variances allow at a budget; circles: what this run realised."""
    known = {name: row for name, row in rows.items() if row["moments"]}
    if not known:
        axes.text(0.5, 0.5, "the correction set is too short", ha="center", transform=axes.transAxes)
        return
    first = next(iter(known.values()))
    scale = Costs(**first["costs"]).full
    grid = np.geomspace(0.01, 3.0, 60) * (first["n_bc"] + first["n_unlabelled"]) * scale
    spread = first["moments"]["variance_full"] * 2 * first["moments"]["tau_full"]
    axes.plot(grid / scale, np.sqrt(spread * scale / grid), color="black")
    for name, row in known.items():
        moments, costs = Moments(**row["moments"]), Costs(**row["costs"])
        budgets = grid[grid > 1.05 * (costs.training + costs.labelled + costs.unlabelled)]
        corrected = [error_at_cost(moments, costs, float(budget))[0] for budget in budgets]
        axes.plot(budgets / scale, corrected, color=colors[name])
        spread = moments.variance_approximation * 2 * moments.tau_approximation
        spare = (budgets - costs.training) / costs.unlabelled
        axes.plot(budgets / scale, np.sqrt(spread / spare + row["bias"] ** 2), ":", color=colors[name])
        spent = costs.training + row["n_bc"] * costs.labelled + row["n_unlabelled"] * costs.unlabelled
        if row["corrected"]["error"]:
            axes.plot(spent / scale, row["corrected"]["error"], "o", color=colors[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cost / cost of one label (seconds, training included)")
    axes.set_ylabel("error (dotted: with the bias)")


def write_surrogate_report(
    path: Path, summary: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Picture]]
) -> Path:
    """report.html of a surrogate run."""
    verdict = _verdict(summary)
    sections = ""
    for label, rows in summary["surrogates"].items():
        sections += f"""<h2>{escape(label.replace("_", " "))}</h2>
{html_table(HEADER, surrogate_table(rows, summary["cheaper"][label]))}
{html_image(surrogate_figure(label, rows, pictures[label]), CAPTION)}
<h3>Planned from the training set, then carried out</h3>
{html_table(PLANNED, planned_table(rows))}"""
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(summary["experiment"])}</title><style>{STYLE}</style>
<h1>{escape(summary["experiment"])}</h1>
<p class="muted">{escape(str(summary["config"]["group"]))} on {summary["config"]["lattice"]};
seed {summary["seed"]}; lattice_lightning {escape(summary["version"])}</p>
<h2>What this run does not resolve</h2>{verdict}
{sections}
<p class="muted">Pulls: against labelling everything, chain by chain on the same configurations. Labels:
share of configurations that are labelled, training included. Cost at equal error: labels, features,
predictions and training that reach the error of labelling everything, over the cost of that; error at equal
cost the other way round; in seconds, configurations counted as given. In iterations: cost at equal error in
solver iterations, where what is not solved for counts by its seconds. With trajectories: in seconds, those
of every configuration on both sides; a surrogate needs more configurations than labels of all would.</p>
<h2>Costs a configuration</h2>
{html_table(("place", "observable", "seconds", "solver iterations"), _costs(summary))}
<h2>Config</h2><details><summary>resolved config</summary>
<pre>{escape(OmegaConf.to_yaml(OmegaConf.create(dict(summary["config"]))))}</pre></details></html>"""
    return write_html(path, body)


def _verdict(summary: Mapping[str, Any]) -> str:
    """What the run doubts; what concerns single surrogates folded away where it is much."""
    first = [gap_doubt(summary["gap"])] * (not summary["gap"]["enough"]) + summary["failed"]
    single = [
        f"{label}, {name}: {text.removeprefix(f'{label}: ')}"
        for label, rows in summary["surrogates"].items() for name, row in rows.items()
        for text in [row["corrected"]["reason"], *row["warnings"]] if text
    ]
    if not first and not single:
        return '<div class="fine">Every error is reliable.</div>'
    lines, more = (
        "".join(f'<div class="doubt">{escape(doubt)}</div>' for doubt in part) for part in (first, single)
    )
    if len(single) <= MAX_DOUBTS:
        return lines + more
    every = [row for rows in summary["surrogates"].values() for row in rows.values()]
    unsure = sum(not row["corrected"]["reliable"] for row in every)
    head = f"{unsure} of {len(every)} corrected averages are not reliable; these, and what does not pay"
    return f"{lines}<details><summary>{head}</summary>{more}</details>"


def _costs(summary: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    for name, place in summary["places"].items():
        if sampling := place["sampling"]:
            lines.append([
                name, "trajectory", f"{sampling['seconds_per_trajectory']:.3g}",
                f"{sampling['iterations_per_trajectory']:.0f}",
            ])
        lines += [
            [name, key, f"{cost['seconds']:.3g}", f"{cost['iterations']:.0f}"]
            for key, cost in place["costs"].items()
        ]
    return lines
