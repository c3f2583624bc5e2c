"""Thermalisation and reference of slhmc_su2: python experiments/slhmc_su2/series.py RUN_FOLDER [TARGET].

RUN_FOLDER is of slhmc_su2_reference; TARGET, this folder's reference/ by default, receives series.png
and series.json. The figure: plaquette, condensate and the four Polyakov loops, spatial ones with their
sign changed (-L_x = -L_y = -L_z = L_t is what equilibrium says), trajectory by trajectory from the start:
single chains, and the mean of all. The numbers: what a run of so many trajectories from that start would
have said; and every long run against the dense determinant, with the tension to the published values.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lattice_lightning.analysis import load_summary, rows_of
from lattice_lightning.pipeline.outcome import load_histories

Array = np.ndarray[Any, Any]
SERIES = {
    "series_favoured/hmc": "favoured sector", "series_identity/hmc": "near the identity",
    "series_hot/hmc": "disordered", "all_sectors/hmc": "all sectors, 600 trajectories later",
}
PANELS = {
    "plaquette": (1, "plaquette"), "chiral_condensate": (1, "condensate"),
    "polyakov_loop_x": (-1, "$-L_x$"), "polyakov_loop_y": (-1, "$-L_y$"),
    "polyakov_loop_z": (-1, "$-L_z$"), "polyakov_loop_t": (1, "$L_t$"),
}
#: of 2103.11965, HMC
PUBLISHED = {
    "plaquette": (0.7025, 0.0001), "polyakov_loop": (0.82, 0.01), "chiral_condensate": (0.4245, 0.0005),
}
LONG = ("favoured/hmc", "all_sectors/hmc", "series_identity/hmc")
#: trajectories of a run that starts without thermalisation, and how many of them it would drop
LENGTHS = (100, 200, 500, 1000, 1500)
DROPPED = 0.1


def running_mean(series: Array, width: int = 10) -> Array:
    """Mean over a window along the last axis, the whole series where that is shorter."""
    width = min(width, series.shape[-1])
    kernel = np.ones(width) / width
    return np.apply_along_axis(lambda s: np.convolve(s, kernel, "valid"), -1, series)


def figure_of(histories: Mapping[str, Mapping[str, Array]], n_single: int = 4) -> Figure:
    """One line a start, one panel an observable."""
    starts = [name for name in SERIES if name in histories]
    figure = Figure(figsize=(2.4 * len(PANELS), 1.7 * len(starts) + 0.4), layout="constrained")
    grid = figure.subplots(len(starts), len(PANELS), squeeze=False, sharey="col")
    for line, start in zip(grid, starts, strict=True):
        for axes, (name, (sign, label)) in zip(line, PANELS.items(), strict=True):
            series = sign * histories[start][name]
            axes.plot(running_mean(series[:n_single]).T, color="0.75", linewidth=0.5)
            axes.plot(running_mean(series.mean(0)), color="#0072B2", linewidth=1)
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
            if start == starts[0]:
                axes.set_title(label, fontsize=9)
            if start == starts[-1]:
                axes.set_xlabel("trajectory", fontsize=7)
        line[0].set_ylabel(SERIES[start], fontsize=7)
    return figure


def short_runs(history: Mapping[str, Array]) -> list[dict[str, Any]]:
    """What runs of LENGTHS trajectories from this start say: means over chains, errors from the chains."""
    found = []
    for length in LENGTHS:
        if length > history["plaquette"].shape[1]:
            break
        entry: dict[str, Any] = {"trajectories": length}
        for name in (*PUBLISHED, "polyakov_loop_x"):
            chains = history[name][:, int(DROPPED * length) : length].mean(1)
            error = float(chains.std(ddof=1)) / len(chains) ** 0.5
            entry[name] = {"value": float(chains.mean()), "error": error}
        found.append(entry)
    return found


def tension(mine: Mapping[str, Any], value: float, error: float) -> dict[str, float]:
    """Difference, its error, and the one over the other."""
    difference, both = mine["value"] - value, float(np.hypot(mine["error"], error))
    return {"difference": difference, "error": both, "sigma": difference / both}


def comparisons(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every long run against the dense determinant, and all of them against the published values."""
    dense = rows["dense/hmc"]["observables"]
    found: dict[str, Any] = {}
    for name in (*LONG, "dense/hmc"):
        mine = rows[name]["observables"]
        found[name] = {
            "published": {n: tension(mine[n], *PUBLISHED[n]) for n in PUBLISHED},
            "loops": {
                n: {k: mine[n][k] for k in ("value", "error", "reliable")} for n in mine if "loop" in n
            },
        }
        if name != "dense/hmc":
            found[name]["dense"] = {
                n: tension(mine[n], dense[n]["value"], dense[n]["error"]) for n in PUBLISHED
            }
    return found


def main(folder: Path, target: Path) -> None:
    """Write series.png and series.json."""
    rows = dict(rows_of(load_summary(folder / "summary.json")))
    histories = load_histories(folder / "histories.npz")
    found = {
        "short_runs": {SERIES[n]: short_runs(histories[n]) for n in SERIES if n.startswith("series")},
        "compared": comparisons(rows),
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / "series.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    figure_of(histories).savefig(target / "series.png", dpi=140)
    for name, entry in found["compared"].items():
        for against in ("dense", "published"):
            pulls = ", ".join(f"{n} {t['sigma']:+.1f}" for n, t in entry.get(against, {}).items())
            if pulls:
                print(f"{name} against {against}, in errors: {pulls}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: python {sys.argv[0]} RUN_FOLDER [TARGET]")
    here = Path(__file__).parent / "reference"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else here)
