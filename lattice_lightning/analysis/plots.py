"""Figures of a run; each takes plain data and returns a matplotlib figure.

Histories are ``{row: {name: [chains, steps]}}``, as in histories.npz of a run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lattice_lightning.analysis.errors import autocorrelation_function
from lattice_lightning.analysis.tables import rows_of

__all__ = [
    "autocorrelation_figure",
    "delta_h_figure",
    "log_weights_figure",
    "observables_figure",
    "overview_figure",
    "points_figure",
    "polyakov_figure",
    "training_figure",
]

Array = npt.NDArray[np.float64]
Histories = Mapping[str, Mapping[str, Array]]

# Okabe-Ito, told apart by colour-blind readers
COLOURS = ("#0072B2", "#999999", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#000000")


def colour_map(rows: Sequence[str]) -> dict[str, str]:
    """One colour a row, the same in every figure."""
    return {row: COLOURS[i % len(COLOURS)] for i, row in enumerate(rows)}


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def training_figure(metrics: Sequence[Mapping[str, Any]], rows: Sequence[str]) -> Figure | None:
    """Loss of every batch (with a running mean) and acceptance of the short runs, over steps."""
    figure = _figure(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    colours, any_loss, any_acceptance, any_ess = colour_map(rows), False, False, False
    for row in rows:
        loss = [(e["step"], e["value"]) for e in metrics if e["row"] == row and e["metric"] == "loss"]
        if loss:
            any_loss = True
            steps, values = (np.array(column, dtype=float) for column in zip(*loss, strict=True))
            left.plot(steps, values, color=colours[row], alpha=0.2, linewidth=0.7)
            width = max(1, len(values) // 20)
            mean = np.convolve(values, np.ones(width) / width, mode="valid")
            left.plot(steps[width - 1 :], mean, color=colours[row], label=row)
        rate = [
            (e["step"], e["value"]) for e in metrics if e["row"] == row and e["metric"] == "acceptance"
        ]
        if rate:
            any_acceptance = True
            steps, values = (np.array(column, dtype=float) for column in zip(*rate, strict=True))
            right.plot(steps, values, "o-", markersize=3, color=colours[row], label=row)
        ess = [(e["step"], e["value"]) for e in metrics if e["row"] == row and e["metric"] == "ess"]
        if ess:
            any_ess = True
            steps, values = (np.array(column, dtype=float) for column in zip(*ess, strict=True))
            right.plot(steps, values, "s--", markersize=2, color=colours[row])
    if not any_loss:
        return None
    lowest = min(e["value"] for e in metrics if e["metric"] == "loss")
    left.set(xlabel="training step", ylabel="loss", title="training loss")
    # that of a flow is a free energy of either sign
    left.set_yscale("log" if lowest > 0 else "linear")
    if lowest <= 0:
        last = [e["value"] for e in metrics if e["metric"] == "loss"]
        left.set_ylim(lowest - 0.05 * abs(lowest), float(np.percentile(last, 90)) + 0.1 * abs(lowest))
    title = "direct draws (dashed: ESS)" if any_ess else "short exact runs"
    right.set(xlabel="training step", ylabel="acceptance", title=f"{title} beside training")
    if any_acceptance:
        right.set_ylim(0, 1.03)
    left.legend(fontsize=8 if len(rows) < 9 else 5)
    for axes in (left, right):
        _plain(axes)
    return figure


def delta_h_figure(histories: Histories) -> Figure | None:
    """Distribution of delta_H of every row."""
    if not histories:
        return None
    figure = _figure(6.5, 3.4)
    axes = figure.subplots()
    colours = colour_map(list(histories))
    finite = {row: h["delta_H"][np.isfinite(h["delta_H"])] for row, h in histories.items()}
    spread = [np.percentile(np.abs(d), 98) for d in finite.values() if d.size]
    edge = max([*spread, 1e-3])
    for row, values in finite.items():
        axes.hist(
            values, bins=np.linspace(-edge, edge, 61).tolist(), density=True, histtype="step",
            color=colours[row], label=row, linewidth=1.4,
        )
    axes.axvline(0, color="0.8", zorder=0)
    axes.set(xlabel=r"$\Delta H$", ylabel="density", title=r"$\Delta H$ of the accept step")
    axes.legend(fontsize=8)
    _plain(axes)
    return figure


def observables_figure(summary: Mapping[str, Any]) -> Figure:
    """Observables of all rows: deviation from the reference in its errors, and pulls."""
    rows = dict(rows_of(summary))
    names = list(dict.fromkeys(n for row in rows.values() for n in row["observables"]))
    colours = colour_map(list(rows))
    n_columns = min(4, len(names))
    n_lines = -(-len(names) // n_columns)
    figure = _figure(2.5 * n_columns, max(2.1, 0.17 * len(rows)) * n_lines + 0.3)
    grid = figure.subplots(n_lines, n_columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        for i, (row, entry) in enumerate(rows.items()):
            observable = entry["observables"].get(name)
            if observable is None:
                continue
            axes.errorbar(
                observable["value"], -i, xerr=observable["error"] or 0, fmt="o", capsize=2,
                color=colours[row], markerfacecolor=colours[row] if observable["reliable"] else "white",
            )
            comparison = (entry["comparison"] or {}).get(name)
            if isinstance(comparison, dict) and comparison["sigma"] is not None:
                axes.annotate(
                    f"{comparison['sigma']:+.1f}σ", (observable["value"], -i), xytext=(0, 5),
                    textcoords="offset points", fontsize=6, ha="center",
                )
            if "exact" in observable:
                axes.plot([observable["exact"]] * 2, [-i - 0.4, -i + 0.4], color="black", linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([-i for i in range(len(rows))], list(rows), fontsize=6)
        axes.tick_params(axis="x", labelsize=6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(y=0.12, x=0.15)
        _plain(axes)
    return figure


def autocorrelation_figure(histories: Histories, name: str) -> Figure | None:
    """Autocorrelation functions rho(t) of one observable, all rows."""
    with_it = {row: h[name] for row, h in histories.items() if name in h}
    if not with_it:
        return None
    figure = _figure(6.5, 3.4)
    axes = figure.subplots()
    colours = colour_map(list(histories))
    for row, series in with_it.items():
        rho = autocorrelation_function(series, min(40, series.shape[1] // 3))
        axes.plot(rho, "o-", markersize=2.5, color=colours[row], label=row)
    axes.axhline(0, color="0.8", zorder=0)
    axes.set(xlabel="lag (measurements)", ylabel=r"$\rho(t)$", title=f"autocorrelation of the {name}")
    axes.legend(fontsize=8)
    _plain(axes)
    return figure


def polyakov_figure(histories: Histories, max_chains: int = 8) -> Figure | None:
    """Time series of the Polyakov loop in every direction, some chains of each row."""
    names = sorted(
        {n for h in histories.values() for n in h if n.startswith("polyakov_loop_") and len(n) == 15},
        key=lambda n: "xyzt".index(n[-1]),
    )
    if not names:
        return None
    rows = list(histories)
    figure = _figure(2.3 * len(names) + 1, 1.25 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    colours = colour_map(rows)
    for line, row in zip(grid, rows, strict=True):
        for axes, name in zip(line, names, strict=True):
            series = histories[row].get(name)
            if series is None:
                continue
            axes.plot(series[:max_chains].T, color=colours[row], linewidth=0.6, alpha=0.7)
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.tick_params(labelsize=6)
            _plain(axes)
        line[0].set_ylabel(row, fontsize=7)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(f"$L_{name[-1]}$", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("measurement", fontsize=7)
    return figure


def log_weights_figure(log_weights: Mapping[str, Array]) -> Figure | None:
    """Histogram of log w - log mean w of direct draws, every row with weights."""
    finite = {row: w[np.isfinite(w)] for row, w in log_weights.items()}
    finite = {row: w for row, w in finite.items() if w.size > 1}
    if not finite:
        return None
    figure = _figure(6.5, 3.4)
    axes = figure.subplots()
    colours = colour_map(list(finite))
    # relative to log Z: a perfect sampler has all weight at zero
    centred = {
        row: w - (np.log(np.mean(np.exp(w - w.max()))) + w.max()) for row, w in finite.items()
    }
    low = max(min(np.percentile(w, 0.5) for w in centred.values()), -30.0)
    high = min(max(np.max(w) for w in centred.values()), 20.0)
    bins = np.linspace(low, max(high, low + 1e-12), 81).tolist()
    for row, values in centred.items():
        axes.hist(
            values, bins=bins, density=True, histtype="step", color=colours[row], label=row, linewidth=1.3
        )
    axes.axvline(0, color="0.8", zorder=0)
    axes.set(xlabel=r"$\log w - \log \bar w$", ylabel="density", yscale="log")
    axes.set_title("weights of direct draws")
    axes.legend(fontsize=8 if len(finite) < 9 else 5)
    _plain(axes)
    return figure


def points_figure(summary: Mapping[str, Any]) -> Figure | None:
    """ESS, acceptance and the longest autocorrelation time against the point, a line a row.

    Where no row has importance weights, the solver's iterations over the acceptance instead of the ESS.
    """
    rows = {name: row for name, row in rows_of(summary) if "/" in name}
    if not rows:
        return None
    points = list(dict.fromkeys(name.rpartition("/")[0] for name in rows))
    names = list(dict.fromkeys(name.rpartition("/")[2] for name in rows))
    charge = any("topological_charge" in row["observables"] for row in rows.values())
    weighted = any(row["sampling"].get("ess") for row in rows.values())
    first = _ess_of if weighted else _iterations_of
    figure = _figure(11.0, 3.4)
    panels = figure.subplots(1, 3)
    colours = colour_map(names)
    for name in names:
        here = [(k, rows[f"{p}/{name}"]) for k, p in enumerate(points) if f"{p}/{name}" in rows]
        for axes, get in zip(panels, (first, _acceptance_of, _tau_of(charge)), strict=True):
            found = [(k, get(row)) for k, row in here]
            known = [(k, *value) for k, value in found if value is not None]
            if known:
                axes.errorbar(
                    [k for k, _, _ in known], [y for _, y, _ in known], yerr=[e for _, _, e in known],
                    fmt="o-", capsize=2, markersize=3.5, color=colours[name], label=name,
                )
    if weighted:
        panels[0].set(ylabel="ESS of direct draws", ylim=(0, 1.03))
    else:
        panels[0].set(ylabel="solver iterations / acceptance", yscale="log")
    panels[1].set(ylabel="acceptance", ylim=(0, 1.03))
    panels[2].set(ylabel=r"$\tau_{int}$ of Q" if charge else r"longest $\tau_{int}$", yscale="log")
    for axes in panels:
        axes.set_xticks(range(len(points)), points, fontsize=7, rotation=30 if len(points) > 5 else 0)
        _plain(axes)
    panels[1].legend(fontsize=7)
    return figure


Point = tuple[float, float] | None


def _ess_of(row: Mapping[str, Any]) -> Point:
    ess = row["sampling"].get("ess")
    return None if not ess else (ess["value"], ess["error"] or 0.0)


def _iterations_of(row: Mapping[str, Any]) -> Point:
    """Iterations for each accepted trajectory, with the error of the acceptance."""
    iterations, rate = row["sampling"]["solver_iterations"], row["sampling"]["acceptance"]
    total = (iterations["md"] or 0.0) + (iterations["accept"] or 0.0)
    if not total or not rate["value"]:
        return None
    return total / rate["value"], total / rate["value"] ** 2 * (rate["error"] or 0.0)


def _acceptance_of(row: Mapping[str, Any]) -> Point:
    entry = row["sampling"]["acceptance"]
    return None if entry["value"] is None else (entry["value"], entry["error"] or 0.0)


def _tau_of(charge: bool) -> Callable[[Mapping[str, Any]], Point]:
    def longest(row: Mapping[str, Any]) -> Point:
        entries = row["observables"]
        wanted = [entries[n] for n in entries if not charge or n == "topological_charge"]
        known = [entry["tau_int"] for entry in wanted if entry["tau_int"]]
        return (max(known), 0.0) if known else None

    return longest


def overview_figure(summary: Mapping[str, Any]) -> Figure:
    """The one figure of an experiment: acceptance of every row, held-out pair loss or ESS."""
    rows = dict(rows_of(summary))
    colours = colour_map(list(rows))
    held = {n: r["held_out"]["pair_loss"] for n, r in rows.items() if r.get("held_out")}
    weights = {n: r["sampling"]["ess"] for n, r in rows.items() if r["sampling"].get("ess")}
    second = bool(held or weights)
    figure = _figure(9.0 if second else 5.0, 0.35 * len(rows) + 1.4)
    panels = figure.subplots(1, 2 if second else 1, squeeze=False)[0]
    names = list(rows)[::-1]
    for i, name in enumerate(names):
        entry = rows[name]["sampling"]["acceptance"]
        panels[0].barh(i, entry["value"], xerr=entry["error"] or 0, color=colours[name], capsize=2)
        if name in held:
            loss = held[name]
            panels[1].errorbar(
                loss["value"], i, xerr=loss["error"] or 0, fmt="o", color=colours[name], capsize=2
            )
        elif name in weights and not held:
            ess = weights[name]
            panels[1].barh(i, ess["value"], xerr=ess["error"] or 0, color=colours[name], capsize=2)
    panels[0].set(xlabel="acceptance", xlim=(0, 1))
    panels[0].set_yticks(range(len(names)), names)
    if held:
        panels[1].set(xlabel="held-out pair loss", xscale="log")
    if weights and not held:
        panels[1].set(xlabel="ESS of direct draws", xlim=(0, 1))
    if second:
        panels[1].set_yticks(range(len(names)), names)
        panels[1].set_ylim(panels[0].get_ylim())
    for axes in panels:
        _plain(axes)
    return figure
