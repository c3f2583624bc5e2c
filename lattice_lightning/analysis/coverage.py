"""Do quoted intervals hold the truth as often as they say? Counts, their judgement, figure and table."""

from collections.abc import Mapping
from html import escape
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lattice_lightning.analysis.correction import Corrected
from lattice_lightning.analysis.html import STYLE, html_image, html_table, write_html
from lattice_lightning.exceptions import InputError

__all__ = [
    "coverage_figure",
    "coverage_of",
    "coverage_table",
    "gamma_coverage",
    "pull_of",
    "write_coverage_report",
]

#: known bias of an error whose tau_int is estimated
ALLOWED = 0.02
BINOMIAL_ERRORS = 3.0
HEADER = ("case", "ensembles", "in 1 sigma (68.3 %)", "in 2 sigma (95.4 %)", "Gamma alone, 1 sigma",
          "Gamma alone, 2 sigma", "without Gamma", "mean pull", "width of pulls", "correlation", "gain",
          "called reliable", "refused", "verdict")


def coverage_of(pulls: Any) -> dict[str, Any]:
    """Shares of pulls within one and two sigma, and whether both are those of a normal distribution.

    Within three binomial standard errors and 2 % for the known bias of an estimated tau_int, both ways:
    intervals that are too wide fail too.

    Raises:
        InputError: without pulls, or for one that is not a number.

    Example:
        >>> coverage_of(np.random.default_rng(1).normal(size=4000))["covers"]
        True
        >>> coverage_of(np.random.default_rng(1).normal(size=4000) * 1.3)["covers"]
        False
    """
    values = np.asarray(pulls, np.float64)
    if values.size == 0 or bool(np.isnan(values).any()):
        bad = int(np.isnan(values).sum())
        raise InputError(f"coverage needs pulls that are numbers, got {values.size}, {bad} of them nan")
    found: dict[str, Any] = {"n": int(values.size), "covers": True}
    for sigma in (1, 2):
        expected = erf(sigma / sqrt(2))
        share = float((np.abs(values) < sigma).mean())
        binomial = sqrt(expected * (1 - expected) / values.size)
        fits = abs(share - expected) <= BINOMIAL_ERRORS * binomial + ALLOWED
        found[f"within_{sigma}"] = {"value": share, "error": binomial, "expected": expected, "fits": fits}
        found["covers"] = found["covers"] and fits
    finite = values[np.isfinite(values)]
    found["mean_pull"] = float(finite.mean()) if finite.size else None
    found["width"] = float(finite.std()) if finite.size else None
    return found


def gamma_coverage(pulls: Any, pulls_gamma: Any) -> dict[str, Any]:
    """What the Gamma error alone would have covered, of the ensembles that have a quoted error.

    Args:
        pulls: in the quoted errors, nan where none is quoted.
        pulls_gamma: in the Gamma errors of the same ensembles, nan where there is none.

    Returns:
        Entries of :func:`coverage_of`, None without any Gamma error, and ``without``: how many
        ensembles have a quoted error and no Gamma error.

    Raises:
        InputError: unless both are of the same ensembles.

    Example:
        >>> found = gamma_coverage([0.5, 1.5, float("nan"), 0.1], [1.5, 2.5, float("nan"), float("nan")])
        >>> found["n"], found["without"], found["within_2"]["value"]
        (2, 1, 0.5)
    """
    quoted, gamma = np.asarray(pulls, np.float64), np.asarray(pulls_gamma, np.float64)
    if quoted.shape != gamma.shape:
        raise InputError(
            f"expected a pull in either error for every ensemble, got {quoted.size} and {gamma.size}"
        )
    gamma = gamma[~np.isnan(quoted)]
    known = gamma[~np.isnan(gamma)]
    keys = ("n", "within_1", "within_2", "mean_pull", "width")
    found = coverage_of(known) if known.size else {**dict.fromkeys(keys), "n": 0}
    return {**{key: found[key] for key in keys}, "without": int(gamma.size - known.size)}


def pull_of(result: Corrected, truth: float, *, gamma_alone: bool = False) -> float:
    """(value - truth) / error; infinite where zero is claimed wrongly, nan where no error is quoted.

    Args:
        result: a corrected average.
        truth: its expectation value.
        gamma_alone: divide by the Gamma error instead of the quoted one, the larger of two.
    """
    error = result.error_gamma if gamma_alone else result.error
    if error is None:
        return float("nan")
    difference = result.value - truth
    if error:
        return difference / error
    return float(np.copysign(np.inf, difference)) if difference else 0.0


def coverage_figure(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Histograms of pulls beside the normal distribution, a panel a case.

    Args:
        found: ``pull`` and ``pull_gamma`` of the ensembles of every case, nan where there is none.
    """
    n = len(found)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    grid, bins = np.linspace(-5, 5, 201), np.linspace(-5, 5, 41).tolist()
    for k, (name, case) in enumerate(found.items()):
        axes = figure.add_subplot(rows, columns, k + 1)
        quoted, gamma = (_shown(case[key]) for key in ("pull", "pull_gamma"))
        axes.hist(quoted, bins, density=True, color="#56B4E9", label="quoted error")
        if gamma.size:
            axes.hist(
                gamma, bins, density=True, histtype="step", color="#D55E00", lw=1.2, label="Gamma alone"
            )
        axes.plot(grid, np.exp(-grid**2 / 2) / sqrt(2 * np.pi), color="black", lw=1, label="normal")
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.set_xlabel("pull (beyond 5 at the edge)", fontsize=8)
        axes.tick_params(labelsize=8)
        if k == 0:
            axes.legend(fontsize=7, frameon=False)
    return figure


def _shown(pulls: Any) -> Any:
    values = np.asarray(pulls, np.float64)
    return np.clip(values[~np.isnan(values)], -5, 5)


def coverage_table(coverage: Mapping[str, Any]) -> list[list[str]]:
    """Lines of text, a case each, under ``HEADER``."""
    lines = []
    for name, case in coverage.items():
        gamma = case["gamma_alone"]
        shares = [part[f"within_{sigma}"] for part in (case, gamma) for sigma in (1, 2)]
        cells = [name.replace("_", " "), str(case["n"]), *map(_share, shares), str(gamma["without"])]
        verdict = "covers" if case["covers"] else "does not cover"
        expected = case["covers"] != case["must_fail"]
        mean, width, correlation, gain = (
            "-" if case[key] is None else f"{case[key]:.2f}"
            for key in ("mean_pull", "width", "correlation", "gain")
        )
        cells += [
            mean, width, correlation, gain, f"{case['reliable']:.3f}", str(case["refused"]),
            f"{verdict}, as it must" if expected else f"{verdict} !",
        ]
        lines.append(cells)
    return lines


def _share(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    return f"{share['value']:.3f}({share['error'] * 1000:.0f}){'' if share['fits'] else ' !'}"


def write_coverage_report(
    path: Path, summary: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> Path:
    """report.html of a coverage run; ``found`` as in :func:`coverage_figure`."""
    fine = summary["ok"]
    verdict = "Every honest case covers, every dishonest one is found out." if fine else (
        "At least one case did not do what it must; see the table."
    )
    caption = (
        "Pulls (corrected value - truth) / error over all ensembles; filled: the quoted error, outlined: "
        "the Gamma error alone; line: normal distribution."
    )
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(summary["experiment"])}</title><style>{STYLE}</style>
<h1>{escape(summary["experiment"])}</h1>
<p class="muted">Synthetic ensembles with known truth; seed {summary["seed"]};
lattice_lightning {summary["version"]}; {summary["seconds"]:.0f} s</p>
<div class="{'fine' if fine else 'doubt'}">{verdict}</div>
<h2>Coverage</h2>{html_table(HEADER, coverage_table(summary["coverage"]))}
<p class="muted">Allowed: three binomial errors and {ALLOWED:.0%}, both ways; the binomial error is in
brackets. The verdict is on the quoted error, the larger of the Gamma error and that of the chain means.
Gamma alone: the same ensembles, had the Gamma error been quoted; without Gamma: those that have none.</p>
{html_image(coverage_figure(found), caption)}
<h2>Config</h2><details><summary>resolved config</summary>
<pre>{escape(OmegaConf.to_yaml(OmegaConf.create(dict(summary["config"]))))}</pre></details></html>"""
    return write_html(path, body)
