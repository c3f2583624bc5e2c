"""Table, figure and report of a surrogate run."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lattice_lightning.analysis.errors import Array, format_error
from lattice_lightning.analysis.html import STYLE, html_image, html_table, write_html

__all__ = ["HEADER", "surrogate_figure", "surrogate_table", "write_surrogate_report"]

HEADER = ("surrogate", "correlation", "uncorrected", "its bias / error", "corrected",
          "difference / error", "labels alone", "everything labelled", "gain over the labels",
          "labelling cost at equal error")


def surrogate_table(summary: Mapping[str, Any]) -> list[list[str]]:
    """Lines of text, a surrogate each, under ``HEADER``."""
    lines = []
    for name, row in summary["surrogates"].items():
        entries = [
            format_error(row[key]["value"], row[key]["error"]) + ("" if row[key]["reliable"] else " !")
            for key in ("uncorrected", "corrected", "labels", "full")
        ]
        pulls = ["-" if row[k] is None else f"{row[k]:+.1f}" for k in ("bias_pull", "corrected_pull")]
        cost = "-" if "plan" not in row else f"{row['plan']['cost_ratio']:.2f}"
        correlation, gain = ("-" if row[k] is None else f"{row[k]:.2f}" for k in ("correlation", "gain"))
        lines.append(
            [name, correlation, entries[0], pulls[0], entries[1], pulls[1], *entries[2:], gain, cost]
        )
    return lines


def surrogate_figure(summary: Mapping[str, Any], pictures: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Predicted against true on the correction set, and every average beside the full measurement."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (exact, guess) in pictures.items():
        left.plot(exact.ravel(), guess.ravel(), ".", ms=2, alpha=0.4, label=name)
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], color="black", lw=1)
    left.set_xlabel(f"{summary['label']}, exact")
    left.set_ylabel("predicted, correction set")
    left.legend(fontsize=7, markerscale=4)
    rows = summary["surrogates"]
    for k, row in enumerate(rows.values()):
        for offset, key, color in ((0.15, "uncorrected", "#D55E00"), (-0.15, "corrected", "#0072B2")):
            right.errorbar(
                row[key]["value"], k + offset, xerr=row[key]["error"] or 0.0, fmt="o", color=color, ms=4,
                capsize=2, label=key if k == 0 else None,
            )
    full = next(iter(rows.values()))["full"]
    right.axvspan(
        full["value"] - (full["error"] or 0), full["value"] + (full["error"] or 0), color="#bbbbbb",
        label="everything labelled",
    )
    right.set_yticks(range(len(rows)), list(rows), fontsize=7)
    right.set_xlabel(summary["label"])
    right.legend(fontsize=7)
    return figure


def write_surrogate_report(
    path: Path, summary: Mapping[str, Any], pictures: Mapping[str, tuple[Array, Array]]
) -> Path:
    """report.html of a surrogate run."""
    doubts = [
        f"{name}: {row['corrected']['reason']}"
        for name, row in summary["surrogates"].items() if not row["corrected"]["reliable"]
    ] + [f"{name}: {text}" for name, row in summary["surrogates"].items() for text in row["warnings"]]
    verdict = "".join(f'<div class="doubt">{escape(d)}</div>' for d in doubts)
    costs = [[key.replace("_", " "), f"{value:.3g}"] for key, value in summary["costs"].items()]
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(summary["experiment"])}</title><style>{STYLE}</style>
<h1>{escape(summary["experiment"])}</h1>
<p class="muted">{escape(str(summary["config"]["group"]))} on {summary["config"]["lattice"]};
seed {summary["seed"]}; lattice_lightning {escape(summary["version"])}</p>
<h2>What this run does not resolve</h2>{verdict or '<div class="fine">Every error is reliable.</div>'}
<h2>{escape(summary["label"])}</h2>{html_table(HEADER, surrogate_table(summary))}
<p class="muted">Pulls: against labelling everything, chain by chain on the same configurations. Cost:
labels, features and training at the error of labelling everything, over the cost of that, in seconds;
configurations are counted as given.</p>
{html_image(surrogate_figure(summary, pictures), "Predicted against exact; averages with their errors.")}
<h2>Costs a configuration (seconds, solver iterations)</h2>{html_table(("what", "cost"), costs)}
<h2>Config</h2><details><summary>resolved config</summary>
<pre>{escape(OmegaConf.to_yaml(OmegaConf.create(dict(summary["config"]))))}</pre></details></html>"""
    return write_html(path, body)
