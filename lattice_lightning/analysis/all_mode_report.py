"""Table, figure and report of a run of classical all-mode averaging."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from omegaconf import OmegaConf

from lattice_lightning.analysis.errors import format_error
from lattice_lightning.analysis.html import STYLE, html_image, html_table, write_html
from lattice_lightning.analysis.tables import markdown_lines

__all__ = [
    "HEADER", "classical_figure", "classical_markdown", "classical_table", "judgement_lines",
    "setting_label", "write_classical_report",
]

HEADER = (
    "setting", "r", "R", "R exact", "formula", "variance", "error^2", "iterations", "merit",
    "merit, all exact", "with trajectories", "sloppy", "bias", "corrected", "pull", "ms",
)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NOTE = (
    "Setting: tolerance x sources averaged over. Variance and error^2 in units of those of one exact "
    "source, same configurations; error^2 has the autocorrelation in it, the formula "
    "1/N + (1 - 1/N)(R + 2 (1 - r)) has not. R: correlation between these sources, of A and of O. Merit: "
    "solver iterations a configuration x error^2 over that of one exact source, over that of all sources "
    "exact, and over one exact source with the iterations of the trajectories between two measurements "
    "added to both. Sloppy: mean(A) alone, its bias in its own errors. Pull: corrected minus all exact, "
    "same sources, in the error of the difference. Errors of ratios: jackknife over chains. An exclamation "
    "mark: the run itself does not trust the error."
)


def setting_label(setting: Mapping[str, Any]) -> str:
    """Tolerance and sources of a setting, as the first cell of its line."""
    level = "exact" if setting["tolerance"] is None else f"{setting['tolerance']:.0e}".replace("e-0", "e-")
    return f"{level} x {setting['n_sources']}"


def classical_table(settings: list[Mapping[str, Any]]) -> list[list[str]]:
    """Lines of text, a setting each, under ``HEADER``."""
    lines = []
    for row in settings:
        exact = row["tolerance"] is None
        corrected, bias, difference = row["corrected"], row["bias_pull"], row["difference"]
        lines.append([
            setting_label(row),
            "" if exact else _ratio(row["correlation"]),
            "" if exact else _ratio(row["source_correlation"]),
            _ratio(row["source_correlation_exact"]),
            *(_ratio(row[key]) for key in ("formula", "variance", "measured")),
            f"{row['cost']:.0f}",
            *(_ratio(row[key]) for key in ("merit_one", "merit_all", "merit_with_trajectories")),
            "" if exact else format_error(row["uncorrected"]["value"], row["uncorrected"]["error"]),
            "" if exact or bias is None else f"{bias:+.1f}",
            format_error(corrected["value"], corrected["error"]) + ("" if corrected["reliable"] else " !"),
            "" if exact or difference is None else f"{difference['pull']:+.1f}",
            f"{1000 * row['seconds']:.1f}",
        ])
    return lines


def _ratio(entry: Mapping[str, Any] | None) -> str:
    """A ratio with its jackknife error, at most four decimals."""
    if entry is None:
        return "-"
    if entry["error"] < 1e-12:
        return f"{entry['value']:.4g}"
    if entry["error"] < 5e-5:
        return f"{entry['value']:.4f}"
    return format_error(entry["value"], entry["error"])


def judgement_lines(judgement: Mapping[str, Any]) -> list[str]:
    """What all settings say together, in words."""
    names = {
        "correction": "corrected minus everything exact, correlations included",
        "formula": "variance minus formula, settings counted as independent (they are not: a guide)",
        "formula_error": "error^2 minus formula, likewise",
    }
    return [
        f"{text}: largest pull {judgement[key]['largest']:.1f}, chi^2 {judgement[key]['chi2']:.1f} of "
        f"{judgement[key]['dof']}, p = {judgement[key]['p_value']:.2g}"
        for key, text in names.items()
    ]


def classical_markdown(summary: Mapping[str, Any]) -> str:
    """Tables of an experiment's README, one a quantity; the best setting in bold."""
    text = []
    for name, found in summary["quantities"].items():
        lines = [
            [f"**{first}**" if first == found["best"] else first, *rest]
            for first, *rest in classical_table(found["settings"])
        ]
        text += [f"**{name.replace('_', ' ')}**", "", *markdown_lines(HEADER, lines), ""]
    text += [NOTE, "Bold: the smallest merit, configurations given.", ""]
    return "\n".join([*text, *[f"- {line}" for line in judgement_lines(summary["judgement"])]])


def classical_figure(summary: Mapping[str, Any]) -> Figure:
    """r and R, gains against the formula, bias without correction; below, error against cost."""
    quantities = summary["quantities"]
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, 1)
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    correlations, gains, bias = upper.subplots(1, 3)
    for (name, found), color in zip(quantities.items(), _colors(quantities), strict=True):
        own = [s for s in found["settings"] if s["tolerance"] is not None]
        most = max(s["n_sources"] for s in own)
        full = [s for s in own if s["n_sources"] == most]
        x = [s["tolerance"] for s in full]
        label = name.replace("_", " ")
        for key, style, what in (("correlation", "o-", "r"), ("source_correlation", "s--", "R")):
            shown = [s[key] or {"value": np.nan, "error": 0.0} for s in full]
            correlations.errorbar(
                x, [e["value"] for e in shown], [e["error"] for e in shown], fmt=style, color=color, ms=4,
                capsize=2, lw=1, label=f"{what}, {label}",
            )
        several = [s for s in own if s["n_sources"] > 1]
        for key, style, what in (("measured", "o", "error^2"), ("variance", "x", "variance")):
            gains.errorbar(
                [s["formula"]["value"] for s in several], [s[key]["value"] for s in several],
                [s[key]["error"] for s in several], fmt=style, color=color, ms=4, capsize=2, lw=1,
                label=f"{what}, {label}",
            )
        pulls = [abs(s["bias_pull"] or np.nan) for s in full]
        bias.plot(x, pulls, "o-", color=color, ms=4, lw=1, label=label)
    correlations.set(xscale="log", xlabel="tolerance of the sloppy solve", ylabel="correlation")
    ends = gains.get_xlim()
    gains.plot(ends, ends, color="black", lw=1, zorder=0)
    gains.set(xlabel="formula", ylabel="measured (one exact source = 1)")
    bias.axhline(1, color="black", lw=1)
    bias.set(xscale="log", yscale="log", xlabel="tolerance of the sloppy solve",
             ylabel="bias of the sloppy average / its error")
    for axes, size in ((correlations, 6), (gains, 6), (bias, 7)):
        axes.legend(fontsize=size)
    panels = lower.subplots(1, len(quantities), squeeze=False)[0]
    for axes, (name, found) in zip(panels, quantities.items(), strict=True):
        _error_against_cost(axes, found["settings"])
        axes.set_title(name.replace("_", " "), fontsize=9)
    panels[0].set_ylabel("error / error of one exact source")
    panels[0].legend(fontsize=7)
    return figure


def _colors(items: Mapping[str, Any]) -> list[str]:
    return [COLORS[k % len(COLORS)] for k in range(len(items))]


def _error_against_cost(axes: Axes, settings: list[Mapping[str, Any]]) -> None:
    """A line a tolerance over the numbers of sources; along the dotted line cost x error^2 is constant."""
    levels = list(dict.fromkeys(s["tolerance"] for s in settings))
    unit = next(s["cost"] for s in settings if s["tolerance"] is None and s["n_sources"] == 1)
    for level, color in zip(levels, ["black", *COLORS][: len(levels)], strict=True):
        own = [s for s in settings if s["tolerance"] == level]
        value = np.sqrt([s["measured"]["value"] for s in own])
        error = np.array([s["measured"]["error"] for s in own]) / (2 * value)
        axes.errorbar(
            [s["cost"] / unit for s in own], value, error, fmt="o-", color=color, ms=4, capsize=2, lw=1,
            label="exact" if level is None else f"AMA, {level:.0e}",
        )
    grid = np.geomspace(1, max(s["cost"] for s in settings) / unit, 50)
    axes.plot(grid, grid**-0.5, ":", color="grey", lw=1, label="1 / sqrt(cost)")
    axes.set(xscale="log", yscale="log", xlabel="iterations / those of one exact source")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)


def write_classical_report(path: Path, summary: Mapping[str, Any]) -> Path:
    """report.html of a run of classical all-mode averaging."""
    doubts = [
        f"{name}, {setting_label(s)}: {s['corrected']['reason']}"
        for name, found in summary["quantities"].items()
        for s in found["settings"] if not s["corrected"]["reliable"]
    ]
    judged = summary["judgement"]["correction"]
    if not judged["ok"]:
        doubts.insert(0, "corrected averages do not agree with everything exact")
    verdict = "".join(f'<div class="doubt">{escape(d)}</div>' for d in doubts)
    tables = "".join(
        f"<h2>{escape(name.replace('_', ' '))}</h2>"
        + html_table(HEADER, classical_table(found["settings"]), found["best"])
        for name, found in summary["quantities"].items()
    )
    costs = [[key.replace("_", " "), f"{value:.4g}"] for key, value in summary["costs"].items()]
    caption = (
        "Above: correlations (all sources); variance and error^2 against the formula; bias of the sloppy "
        "average alone. Below: error against cost, a point a number of sources."
    )
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(summary["experiment"])}</title><style>{STYLE}</style>
<h1>{escape(summary["experiment"])}</h1>
<p class="muted">{escape(str(summary["config"]["group"]))} on {summary["config"]["lattice"]};
seed {summary["seed"]}; lattice_lightning {escape(summary["version"])}</p>
<h2>What this run does not resolve</h2>{verdict or '<div class="fine">Every error is reliable.</div>'}
<h2>All settings together</h2>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in judgement_lines(summary["judgement"]))}</ul>
{tables}<p class="muted">{escape(NOTE)} Highlighted: the smallest merit, configurations given.</p>
{html_image(classical_figure(summary), caption)}
<h2>Costs</h2>{html_table(("what", "cost"), costs)}
<h2>Config</h2><details><summary>resolved config</summary>
<pre>{escape(OmegaConf.to_yaml(OmegaConf.create(dict(summary["config"]))))}</pre></details></html>"""
    return write_html(path, body)
