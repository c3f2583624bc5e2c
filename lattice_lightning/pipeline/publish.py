"""Putting a run's results where the repository keeps them: experiments/<name>/."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lattice_lightning.analysis import format_entry, rows_of
from lattice_lightning.analysis.plots import observables_figure, overview_figure, points_figure
from lattice_lightning.analysis.tables import FLOW_COLUMNS, HALVED, flow_cells, halving_cell, markdown_lines
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.folder import RunFolder

__all__ = ["check_target", "markdown_table", "publish", "result_rows", "write_json", "write_results"]

LIMITS = ("flow_training_limits", "sampling_limits")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def result_rows(summary: Mapping[str, Any], command: str) -> list[dict[str, Any]]:
    """One entry a row, ``{row, parameters, command, summary}``, as results.json keeps them."""
    config, judgements = summary["config"], summary.get("judgement") or {}
    entries = []
    for name, row in rows_of(summary):
        judged = judgements.get(name.rpartition("/")[2])
        kept = {
            key: row[key]
            for key in ("model", "training", "sampling", "held_out", "observables", "comparison")
            if key in row
        }
        parameters = {
            "lattice": config.get("lattice"),
            "group": config.get("group"),
            "action": config.get("action"),
            **(row.get("parameters") or {}),
        }
        entries.append(
            {
                "row": name,
                "parameters": parameters,
                "command": command,
                "summary": {
                    **kept,
                    **{k: summary[k] for k in ("experiment", "version", "seed", "device", "threads")},
                    **({"judgement": judged} if judged else {}),
                },
            }
        )
    return entries


def markdown_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table of an experiment's README, from the entries of its results.json."""
    own = [e for e in entries if "summary" in e]
    exact = any("exact" in o for e in own for o in e["summary"]["observables"].values())
    if any(e["summary"]["sampling"].get("ess") for e in own):
        lines = _flow_lines(own)
    else:
        lines = _exact_lines(own) if exact else _sampler_lines(own)
    published = [e for e in entries if "source" in e]
    if published:
        cells = [(e["row"], format_entry(e), e["source"]) for e in published]
        lines += ["", "Published values:", "", *markdown_lines(("row", "value", "source"), cells)]
    return "\n".join(lines)


def _sampler_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(entries[0]["summary"]["observables"])
    solves = any(any(e["summary"]["sampling"]["solver_iterations"].values()) for e in entries)
    head = ["row", "parameters", "acceptance", "Var(dH)", "<exp(-dH)>", "held-out pair loss",
            "against linear", *_ITERATIONS * solves, "s / eff. sample", "with training",
            *[n.replace("_", " ") for n in names]]
    table = []
    for entry in entries:
        row = entry["summary"]
        sampling, held = row["sampling"], row.get("held_out") or {}
        sigma = (held.get("against") or {}).get("sigma")
        variance = sampling["var_dH"]
        cells = [
            entry["row"], str(row["model"]["n_parameters"]), format_entry(sampling["acceptance"]),
            "" if variance is None else f"{variance:.2g}", format_entry(sampling["exp_minus_dH"]),
            format_entry(held.get("pair_loss")), "" if sigma is None else f"{sigma:+.1f} sigma",
            *(_iteration_cells(sampling) if solves else []), *_cost_cells(sampling, least=1),
            *[format_entry(row["observables"][n]) + _mark(row["observables"][n]) for n in names],
        ]
        table.append(cells)
    said = ["Iterations of the solver: for each chain and trajectory, for each accepted one, and for each "
            "effective sample of the slowest observable."] * solves
    lines = markdown_lines(head, table)
    return [*lines, "", "An exclamation mark: the run itself calls this error not reliable.", *said]


_ITERATIONS = ["MD / accept iterations", "iterations / acceptance", "iterations / eff. sample"]


def _iteration_cells(sampling: Mapping[str, Any]) -> list[str]:
    """The entries of ``_ITERATIONS``; empty where a row solves nothing, or an observable is frozen."""
    md, accept = (sampling["solver_iterations"][key] for key in ("md", "accept"))
    if md is None and accept is None:
        return ["", "", ""]
    total, rate = (md or 0.0) + (accept or 0.0), sampling["acceptance"]["value"]
    effective = sampling["n_effective"]
    # iterations are means over chains and steps, effective samples are counted over all of them
    # below one sample there is no cost, only a chain that does not move
    trajectories = sampling["n_chains"] * sampling["n_steps"]
    cost = "" if not effective or effective < 1 else f"{total * trajectories / effective:.3g}"
    mark = "" if sampling["seconds_per_effective_sample"].get("reliable") else " !"
    return [
        f"{md or 0:.0f} / {accept or 0:.0f}", f"{total / rate:.0f}" if rate else "",
        cost and cost + mark,
    ]


def _cost_cells(sampling: Mapping[str, Any], least: float = 0.0) -> list[str]:
    """Seconds for each effective sample, without and with training; of ``least`` samples or more."""
    cost = sampling["seconds_per_effective_sample"]
    mark = "" if cost.get("reliable") else " !"
    costs = (cost[key] for key in ("without_training", "with_training"))
    unknown = (sampling["n_effective"] or 0.0) < least
    return ["-" if c is None or unknown else f"{c:.2g}{mark}" for c in costs]


def _flow_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a row: training, weights, observables with their pull against HMC or exact values."""
    first = entries[0]["summary"]["observables"]
    names = [n for n in first if all(n in e["summary"]["observables"] for e in entries)]
    charge = "topological_charge" in names
    head = [*FLOW_COLUMNS, *[n.replace("_", " ") for n in names]]
    halved = any(e["summary"]["sampling"].get("step_halving") for e in entries)
    head += [HALVED] * halved
    head += ["tau_int(Q)", "tunnelling rate"] * charge + ["s / eff. sample", "with training"]
    table = []
    for entry in entries:
        row = entry["summary"]
        sampling, cells = row["sampling"], flow_cells(entry["row"], row)
        for name in names:
            observable = row["observables"][name]
            sigma = ((row["comparison"] or {}).get(name) or {}).get("sigma")
            pull = "" if sigma is None else f" [{sigma:+.1f}]"
            cells.append(format_entry(observable) + _mark(observable) + pull)
        if halved:
            cells.append(halving_cell(sampling))
        if charge:
            tau = row["observables"]["topological_charge"]["tau_int"]
            cells += ["" if tau is None else f"{tau:.2g}", format_entry(sampling.get("tunnelling_rate"))]
        cells += _cost_cells(sampling)
        table.append(cells)
    exact = [any("exact" in o for o in e["summary"]["observables"].values()) for e in entries]
    known = "the exact value" if all(exact) else "the exact value where one is known, else HMC"
    against = known if any(exact) else "HMC"
    return [
        *markdown_lines(head, table), "",
        f"In brackets: difference to {against} in its error. An exclamation mark: the run itself calls "
        "this error not reliable. ESS and log Z from direct draws, acceptance of the chains.",
        *_judgement_lines(entries),
    ]


def _judgement_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """All pulls of each row with exact values, judged together."""
    with_one = [e for e in entries if "judgement" in e["summary"]]
    judged = {e["row"].rpartition("/")[2]: e["summary"]["judgement"] for e in with_one}
    if not judged:
        return []
    lines = ["", "All pulls with exact values, log Z included, judged together, row by row:", "",
             "| row | pulls | largest | chi^2 / dof | p |", "| --- | --- | --- | --- | --- |"]
    for row, found in judged.items():
        lines.append(
            f"| {row} | {len(found['pulls'])} | {found['largest']:.2f} | {found['chi2']:.1f} / "
            f"{found['dof']} | {found['p_value']:.2g} |"
        )
    return lines


def _exact_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| point | observable | measured | exact | pull | acceptance |", "| --- " * 6 + "|"]
    for entry in entries:
        row = entry["summary"]
        for name, observable in row["observables"].items():
            if "exact" not in observable:
                continue
            sigma = (row["comparison"] or {}).get(name, {}).get("sigma")
            lines.append(
                f"| {entry['row']} | {name.replace('_', ' ')} | "
                f"{format_entry(observable)}{_mark(observable)} | {observable['exact']:.6g} | "
                f"{'' if sigma is None else f'{sigma:+.2f}'} | "
                f"{format_entry(row['sampling']['acceptance'])} |"
            )
    return lines


def _mark(entry: Mapping[str, Any]) -> str:
    return "" if entry["reliable"] else " !"


def _write_table(readme: Path, table: str) -> None:
    text = readme.read_text() if readme.exists() else f"# {readme.parent.name}\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        return
    before, _, rest = text.partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def check_target(config: Mapping[str, Any]) -> None:
    """Refuse what publishing at the end of the run could not do.

    Raises:
        InputError: for a target that is no folder, a results.json that is not a list or holds another
            experiment's rows, or results that a run with limits would replace.
    """
    if not config.get("publish"):
        return
    target = Path(str(config["publish"]))
    if target.exists() and not target.is_dir():
        raise InputError(f"publish={target} is a file; give a folder like experiments/{config['name']}")
    path = target / "results.json"
    with explained(f"{path} cannot be kept"):
        rows = json.loads(path.read_text()) if path.exists() else []
        if not isinstance(rows, list):
            raise InputError(f"{path} is not a list of rows; mend it or publish elsewhere")
        names = {e["summary"]["experiment"] for e in rows if "summary" in e}
    if names - {config["name"]}:
        raise InputError(
            f"{path} holds results of {', '.join(sorted(names))}, which {config['name']} would replace; "
            f"publish=experiments/{config['name']}"
        )
    limits = [key for key in LIMITS if config.get(key)]
    if names and limits:
        raise InputError(
            f"{path} holds results that a run with {', '.join(limits)} (as debug=limit sets) would "
            "replace; leave publish out"
        )


def kept_rows(target: Path) -> list[dict[str, Any]]:
    """Entries of results.json that no run replaces: published values and benchmarks."""
    path = target / "results.json"
    old = json.loads(path.read_text()) if path.exists() else []
    return [e for e in old if "source" in e or "ratio" in e]


def write_json(path: Path, tree: Any) -> None:
    """Write strict JSON at once: a kill leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def write_results(
    target: Path, folder: RunFolder, entries: Sequence[Mapping[str, Any]], table: str
) -> None:
    """Write results.json, config.yaml and the table of README.md."""
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "results.json", list(entries))
    shutil.copyfile(folder.path / "config.yaml", target / "config.yaml")
    _write_table(target / "README.md", table)


def publish(target: Path, folder: RunFolder, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write results.json, config.yaml, figures, the headline's weights and the table of README.md.

    Entries of results.json that have a ``source`` (published values) stay as they are; in README.md
    what stands between the lines ``BEGIN`` and ``END`` is replaced.
    """
    target = Path(target)
    entries = kept_rows(target) + result_rows(summary, command_of(config))
    write_results(target, folder, entries, markdown_table(entries))
    figure = points_figure(summary) or overview_figure(summary)
    figure.savefig(target / "figure.png", dpi=140)
    observables_figure(summary).savefig(target / "observables.png", dpi=140)
    point, _, row = str(summary.get("row", "")).rpartition("/")
    place = RunFolder(folder.point(point)) if point else folder
    # a row may sample with the flow of another
    row = ((config.get("rows") or {}).get(row) or {}).get("flow_of") or row
    weights = place.weights(row)
    if weights.exists():
        shutil.copyfile(weights, target / (f"{row}_{point}.pt" if point else f"{row}.pt"))
    return target
