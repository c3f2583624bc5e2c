"""Fits of flow_volume: python experiments/flow_volume/fits.py RUN_FOLDER

ESS of flows trained on 8^2 against the volume, log ESS = -V / V_0; and steps (and seconds) of training
to an acceptance of 0.5 against the volume, steps = a V^b. Errors: of the ESS from the run, of the steps
half an interval between two measurements.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import curve_fit

from lattice_lightning.analysis import load_summary, rows_of
from lattice_lightning.callbacks import read_metrics

WANTED = 0.5


def volumes(rows):
    """{architecture: [(V, ESS, error)]} of the flows trained on 8^2."""
    found = {}
    for name, row in rows.items():
        point, _, kind = name.partition("/")
        if (point == "L8" or point.endswith("_of_8")) and "ess" in row["sampling"]:
            lattice = row["parameters"]["lattice"]
            ess = row["sampling"]["ess"]
            found.setdefault(kind, []).append((lattice[0] * lattice[1], ess["value"], ess["error"] or ess["value"]))
    return {kind: sorted(points) for kind, points in found.items()}


def costs(folder, rows):
    """{architecture: [(V, steps to the acceptance, half an interval, seconds)]}; None where not reached."""
    found = {}
    for point in ("L4", "L6", "L8"):
        metrics = read_metrics(folder / "points" / point / "metrics.csv")
        for kind in ("realnvp", "spline"):
            curve = [(e["step"], e["value"]) for e in metrics if e["row"] == kind and e["metric"] == "acceptance"]
            steps = [step for step, value in curve if value >= WANTED]
            row = rows[f"{point}/{kind}"]
            interval = curve[1][0] - curve[0][0]
            first = steps[0] + 1 if steps else None
            seconds = first and row["training"]["seconds"] * first / row["training"]["steps"]
            extent = row["parameters"]["lattice"][0]
            found.setdefault(kind, []).append((extent**2, first, interval / 2, seconds))
    return found


def main(folder):
    folder, here = Path(folder), Path(__file__).parent
    rows = dict(rows_of(load_summary(folder / "summary.json")))
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    result = {"run": folder.name, "wanted_acceptance": WANTED, "ess": {}, "cost": {}}
    for colour, (kind, points) in zip(("#0072B2", "#E69F00", "#009E73"), volumes(rows).items()):
        v, ess, error = (np.array(column, float) for column in zip(*points))
        relative = np.maximum(error / ess, 1e-3)
        (inverse,), covariance = curve_fit(lambda v, b: -b * v, v, np.log(ess), [1e-3], relative, True)
        chi2 = float((((np.log(ess) + inverse * v) / relative) ** 2).sum())
        result["ess"][kind] = {
            "points": points, "V_0": 1 / inverse, "error": float(np.sqrt(covariance[0, 0])) / inverse**2,
            "chi2": chi2, "dof": len(v) - 1,
        }
        left.errorbar(v, ess, error, fmt="o", color=colour, capsize=2)
        grid = np.linspace(0, v.max() * 1.05)
        left.plot(grid, np.exp(-inverse * grid), color=colour, linewidth=1, label=f"{kind}: $V_0$ = {1 / inverse:.0f}")
    left.set(xlabel="volume", ylabel="ESS", yscale="log", title="trained on $8^2$, used on larger lattices")
    left.legend(fontsize=8)
    for colour, (kind, points) in zip(("#0072B2", "#E69F00"), costs(folder, rows).items()):
        reached = [p for p in points if p[1]]
        entry = {"points": points}
        label = kind
        if len(reached) >= 2:
            v, steps, error, _ = (np.array(column, float) for column in zip(*reached))
            relative = error / steps
            fit, covariance = np.polyfit(np.log(v), np.log(steps), 1, w=1 / relative, cov="unscaled")
            entry |= {"exponent": float(fit[0]), "error": float(np.sqrt(covariance[0, 0]))}
            label = f"{kind}: $V^{{{fit[0]:.1f}({np.sqrt(covariance[0, 0]):.1f})}}$"
            right.plot(v, np.exp(np.polyval(fit, np.log(v))), color=colour, linewidth=1)
        if reached:
            right.errorbar([p[0] for p in reached], [p[1] for p in reached], [p[2] for p in reached], fmt="o",
                           color=colour, capsize=2, label=label)
        result["cost"][kind] = entry
    right.set(xlabel="volume", ylabel=f"steps to acceptance {WANTED}", xscale="log", yscale="log",
              title="cost of training (batch 64)")
    right.legend(fontsize=8)
    figure.savefig(here / "fits.png", dpi=140)
    (here / "fits.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
