"""Fits of flow_volume: python experiments/flow_volume/fits.py RUN_FOLDER.

Volume: of flows trained on 8^2 and used on larger lattices, log ESS = -a - (V - 64) / V_0, from points with at
least 100 effective draws; and the acceptance A of independence Metropolis between direct draws, which stands
where the ESS does not: Gaussian log weights of variance s^2 are accepted with A = erfc(s / 2), so that
s^2 = a' + (V - 64) / V_A. Cost: steps of training until the acceptance first reaches each of WANTED, steps = c V^b.
Errors: of the run, with those of fitted numbers scaled by sqrt(chi^2 / dof) where that is above one; of
the exponent b from the residuals alone. One seed: no scatter between trainings.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import erfc, erfcinv

from lattice_lightning.analysis import load_summary, rows_of
from lattice_lightning.callbacks import read_metrics

WANTED = {0.3: "o", 0.5: "^"}
TRAINED = 64
ENOUGH = 100
COLOURS = {"realnvp": "#0072B2", "spline": "#E69F00", "continuous": "#009E73"}
Rows = Mapping[str, Mapping[str, Any]]


def line(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """Weighted straight line y = intercept + slope x, with chi^2."""
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=1 / error, cov="unscaled")
    chi2, dof = float((((y - intercept - slope * x) / error) ** 2).sum()), len(x) - 2
    scale = max(1.0, chi2 / dof) if dof else 1.0
    return {
        "slope": float(slope), "slope_error": float(np.sqrt(covariance[0, 0] * scale)),
        "intercept": float(intercept), "chi2": chi2, "dof": dof,
    }


def of_trained_on_8(rows: Rows, kind: str) -> list[tuple[int, dict[str, Any]]]:
    """(V, sampling entry) of one architecture."""
    found = []
    for name, row in rows.items():
        point, _, row_name = name.partition("/")
        if row_name == kind and (point == "L8" or point.endswith("_of_8")):
            found.append((int(np.prod(row["parameters"]["lattice"])), row["sampling"]))
    return sorted(found, key=lambda pair: pair[0])


def volume(rows: Rows, kind: str, left: Axes, middle: Axes) -> dict[str, Any]:
    """ESS and acceptance against the volume."""
    points = of_trained_on_8(rows, kind)
    grid = np.linspace(TRAINED, 1.05 * points[-1][0])
    ess = [(v, s["ess"]["value"], s["ess"]["error"]) for v, s in points]
    trusted = [p for p, (_, s) in zip(ess, points, strict=True) if p[1] * s["ess"]["n"] >= ENOUGH]
    left.errorbar(*zip(*trusted, strict=True), fmt="o", color=COLOURS[kind], capsize=2, label=kind)
    result: dict[str, Any] = {"ess": ess}
    if len(trusted) > 2:
        v, value, error = np.array(trusted).T
        fit = line(v - TRAINED, np.log(value), error / value)
        result["log_ess"] = fit | {"V_0": -1 / fit["slope"], "V_0_error": fit["slope_error"] / fit["slope"] ** 2}
        left.plot(grid, np.exp(fit["intercept"] + fit["slope"] * (grid - TRAINED)), color=COLOURS[kind], lw=1)
    v, value, error = np.array(
        [(v, s["acceptance_of_draws"]["value"], s["acceptance_of_draws"]["error"]) for v, s in points]
    ).T
    spread = 4 * erfcinv(value) ** 2
    # ds^2/dA from A = erfc(s / 2), dA/ds = -exp(-s^2 / 4) / sqrt(pi)
    spread_error = 2 * np.sqrt(spread) * np.sqrt(np.pi) * np.exp(spread / 4) * error
    fit = line(v - TRAINED, spread, spread_error)
    result["acceptance"] = [list(p) for p in zip(v, value, error, strict=True)]
    result["spread"] = fit | {"V_A": 1 / fit["slope"], "V_A_error": fit["slope_error"] / fit["slope"] ** 2}
    middle.errorbar(v, value, error, fmt="o", color=COLOURS[kind], capsize=2)
    curve = np.maximum(fit["intercept"] + fit["slope"] * (grid - TRAINED), 0)
    label = f"{kind}: $V_A$ = {1 / fit['slope']:.0f}"
    middle.plot(grid, erfc(np.sqrt(curve) / 2), color=COLOURS[kind], lw=1, label=label)
    return result


def cost(folder: Path, rows: Rows, kind: str, wanted: float, right: Axes) -> dict[str, Any]:
    """Steps of training to an acceptance against the volume."""
    points, reached = [], []
    for point in ("L4", "L6", "L8", "L10"):
        entries = read_metrics(folder / "points" / point / "metrics.csv")
        curve = [(e["step"], e["value"]) for e in entries if (e["row"], e["metric"]) == (kind, "acceptance")]
        half = (curve[1][0] - curve[0][0]) / 2
        steps = next((step + 1 for step, value in curve if value >= wanted), None)
        row = rows[f"{point}/{kind}"]
        volume = int(np.prod(row["parameters"]["lattice"]))
        entry = {"V": volume, "steps": steps, "error": half, "last_acceptance": curve[-1][1]}
        if steps:
            entry["seconds"] = row["training"]["seconds"] * steps / row["training"]["steps"]
            reached.append((volume, steps, half))
        points.append(entry)
    result: dict[str, Any] = {"points": points}
    if not reached:
        return result
    v, steps, error = np.array(reached, float).T
    label = f"{kind}, {wanted}"
    if len(reached) > 2:
        # how far trainings scatter is not known beforehand: equal weights, errors from the residuals
        fit = line(np.log(v), np.log(steps), np.full(len(v), 1e-3))
        result["power"] = {"exponent": fit["slope"], "error": fit["slope_error"], "points": len(v)}
        label += f": $V^{{{fit['slope']:.1f}({fit['slope_error']:.1f})}}$"
        right.plot(v, np.exp(fit["intercept"]) * v ** fit["slope"], color=COLOURS[kind], lw=1)
    right.errorbar(v, steps, error, fmt=WANTED[wanted], color=COLOURS[kind], capsize=2, label=label)
    return result


def main(run: str) -> None:
    """Write fits.json and fits.png beside this file."""
    folder, here = Path(run), Path(__file__).parent
    rows = dict(rows_of(load_summary(folder / "summary.json")))
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    result: dict[str, Any] = {"run": folder.name}
    result["volume"] = {kind: volume(rows, kind, left, middle) for kind in COLOURS}
    result["cost"] = {
        f"{kind} to {wanted}": cost(folder, rows, kind, wanted, right)
        for kind in ("realnvp", "spline") for wanted in WANTED
    }
    left.set(xlabel="volume", ylabel="ESS", yscale="log", title="trained on $8^2$, used on larger lattices")
    middle.set(xlabel="volume", ylabel="acceptance of direct draws", ylim=(0, 1.05))
    right.set(xlabel="volume", ylabel="steps to an acceptance", xscale="log", yscale="log",
              title="cost of training, batch 64, one seed")
    right.set_xticks([16, 36, 64, 100], ["$4^2$", "$6^2$", "$8^2$", "$10^2$"], minor=False)
    right.set_xticks([], minor=True)
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
    figure.savefig(here / "fits.png", dpi=140)
    (here / "fits.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
