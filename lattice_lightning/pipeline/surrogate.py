"""Runs of ``surrogate``: an expensive observable from cheap ones, its bias corrected, on an ensemble.

Every configuration is labelled, so that the corrected average can be compared with measuring everything;
the surrogates see the labels of their training set, the correction those of its own. A surrogate may also
be trained elsewhere (another coupling, mass or volume: ``train_on``) and used here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lattice_lightning import __version__
from lattice_lightning.analysis import MarkovSets
from lattice_lightning.analysis.surrogates import (
    HEADER,
    Picture,
    gap_doubt,
    surrogate_figure,
    surrogate_table,
    write_surrogate_report,
)
from lattice_lightning.analysis.tables import markdown_lines
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import check_numbers
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.label_sets import cheaper_labels, gap_of
from lattice_lightning.pipeline.outcome import load_histories, save_histories
from lattice_lightning.pipeline.places import Place, Probe, check_stored, iterations_of, prepare, probe
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, kept_rows, write_json, write_results
from lattice_lightning.pipeline.rows import merged
from lattice_lightning.pipeline.surrogate_config import HERE, check_surrogate, find_targets, nothing_left
from lattice_lightning.pipeline.surrogate_rows import SurrogateRow
from lattice_lightning.pipeline.targets import Target
from lattice_lightning.pipeline.train import run_folder

__all__ = ["rewrite_report", "surrogate"]

PICTURES = "pictures.npz"


def surrogate(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Sample, label, fit, correct, compare; resumable.

    Raises:
        InputError: for anything in the config that cannot work, before the first trajectory.
    """
    check_numbers(config)
    check_target(config)
    require_one_process(config["trainer"], "a surrogate run")
    device = choose_device(config["trainer"])
    options, sets = check_surrogate(config)
    configs = {HERE: config, **{n: merged(config, d) for n, d in options["train_on"].items()}}
    places = {name: System(c, device) for name, c in configs.items()}
    probes = {name: probe(s, configs[name], int(config["seed"])) for name, s in places.items()}
    targets = find_targets(options, places[HERE], probes)
    lengths = {name: sets.n_steps if name == HERE else sets.train[1] for name in places}
    stored = {name: Path(str(path)) for name, path in options["stored"].items()}
    for name, path in stored.items():
        check_stored(configs[name], path, lengths[name])
    if config["dry_run"]:
        _describe(console, configs, lengths, probes, sets, options)
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    found = {
        name: prepare(configs[name], name, s, probes[name], lengths[name], folder.path, stored.get(name))
        for name, s in places.items()
    }
    gap = gap_of(sets, targets, options["regressors"], found[HERE])
    if not gap["enough"]:
        console.print(f"! {gap_doubt(gap)}", highlight=False)
    rows, pictures, failed = _rows(options, sets, targets, found, folder, console)
    summary = {
        "experiment": config["name"], "version": __version__, "seed": config["seed"], "device": str(device),
        "threads": torch.get_num_threads(), "config": json.loads(json.dumps(config)),
        "places": {name: _described(place) for name, place in found.items()},
        "gap": gap, "surrogates": rows, "failed": failed,
        "cheaper": {
            label: cheaper_labels(options["cheaper"], sets, target, found[HERE])
            for label, target in targets.items()
        },
    }
    write_json(folder.summary, summary)
    save_histories(folder.path / PICTURES, _flat(pictures))
    write_surrogate_report(folder.report, summary, pictures)
    for label, entries in rows.items():
        table = Table(*HEADER, title=label)
        for line in surrogate_table(entries, summary["cheaper"][label]):
            table.add_row(*line)
        console.print(table)
    if config["publish"]:
        _publish(Path(config["publish"]), folder, summary, pictures)
        console.print(f"published in {config['publish']}")
    console.print(f"report: {folder.report}")
    return summary


def _flat(pictures: Mapping[str, Mapping[str, Picture]]) -> dict[str, dict[str, Any]]:
    return {
        f"{label}: {name}": {"exact": exact, "approximation": approximation}
        for label, found in pictures.items() for name, (exact, approximation) in found.items()
    }


def rewrite_report(folder: RunFolder) -> Path:
    """report.html again, from summary.json and pictures.npz.

    Raises:
        InputError: when the run has not finished.
    """
    if not (folder.path / PICTURES).exists():
        raise InputError(
            f"{folder.path} has no {PICTURES} yet; finish it with: python train.py resume={folder.path}"
        )
    summary = json.loads(folder.summary.read_text())
    stored = load_histories(folder.path / PICTURES)
    pictures = {
        label: {
            name: (stored[f"{label}: {name}"]["exact"], stored[f"{label}: {name}"]["approximation"])
            for name in rows
        }
        for label, rows in summary["surrogates"].items()
    }
    return write_surrogate_report(folder.report, summary, pictures)


def _describe(
    console: Console, configs: Mapping[str, Any], lengths: Mapping[str, int], probes: Mapping[str, Probe],
    sets: MarkovSets, options: Mapping[str, Any],
) -> None:
    for name, c in configs.items():
        chains = c["stream"]["n_chains"]
        seconds = ", ".join(f"{key} {s:.2g} s" for key, s in probes[name].seconds.items())
        console.print(
            f"{name}: {'x'.join(map(str, c['lattice']))}, {chains} chains x {lengths[name]} configurations "
            f"{options['every']} trajectories apart; one starting field takes {seconds}"
        )
    console.print(f"train {sets.train}, correction {sets.correction}, unlabelled {sets.unlabelled}")


def _rows(
    options: Mapping[str, Any], sets: MarkovSets, targets: Mapping[str, Target],
    places: Mapping[str, Place], folder: RunFolder, console: Console,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Picture]], list[str]]:
    rows: dict[str, dict[str, Any]] = {label: {} for label in targets}
    pictures: dict[str, dict[str, Picture]] = {label: {} for label in targets}
    fitted: dict[Any, Any] = {}
    failed = []
    for label, target in targets.items():
        for name, given in options["regressors"].items():
            if nothing_left(target, given):
                continue
            for at in given.get("train_on") or places:
                key = name if at == HERE else f"{name}, trained at {at}"
                console.print(f"{label}: {key}", highlight=False)
                row = SurrogateRow(
                    name, given, target, sets, options["form"], places[at], places[HERE],
                    folder.path / "fits", fitted,
                )
                # one that cannot be fitted or corrected must not take the others with it
                try:
                    entry, picture = row.evaluate()
                except InputError as error:
                    failed.append(f"{label}, {key}: {error}")
                    console.print(f"! {error}", highlight=False)
                    continue
                for warning in entry["warnings"]:
                    console.print(f"! {warning}", highlight=False)
                rows[label][key], pictures[label][key] = entry, picture
    if not any(rows.values()):
        raise InputError("no surrogate could be used:\n  " + "\n  ".join(failed))
    # a label that none could be used for has no table and no figure; why stands in what failed
    used = [label for label, found in rows.items() if found]
    return {label: rows[label] for label in used}, {label: pictures[label] for label in used}, failed


def _described(place: Place) -> dict[str, Any]:
    """What sampling and each observable cost there, in seconds and solver iterations."""
    costs = {
        key: {"seconds": labels.seconds_per_configuration, "iterations": iterations_of(labels)}
        for key, labels in place.labels.items()
    }
    return {
        "lattice": list(place.system.lattice.shape), "chains": place.ensemble.shape[1],
        "configurations": place.ensemble.shape[0], "sampling": dict(place.sampling), "costs": costs,
    }


def _publish(
    target: Path, folder: RunFolder, summary: Mapping[str, Any],
    pictures: Mapping[str, Mapping[str, Picture]],
) -> None:
    common = {key: summary[key] for key in ("experiment", "version", "seed", "device", "threads", "places")}
    config, several = summary["config"], len(summary["surrogates"]) > 1
    entries, lines = kept_rows(target), []
    for label, rows in summary["surrogates"].items():
        for name, row in rows.items():
            parameters = {key: config[key] for key in ("lattice", "group", "action")}
            entries.append({
                "row": f"{label}: {name}" if several else name, "command": command_of(config),
                "parameters": {**parameters, "label": label}, "summary": {**common, "correction": row},
            })
        lines += [f"{label.replace('_', ' ')}:", ""] if several else []
        lines += [*markdown_lines(HEADER, surrogate_table(rows, summary["cheaper"][label])), ""]
    write_results(target, folder, entries, "\n".join(lines).rstrip())
    for k, (label, rows) in enumerate(summary["surrogates"].items()):
        name = "figure.png" if k == 0 else f"figure_{label}.png"
        surrogate_figure(label, rows, pictures[label]).savefig(target / name, dpi=140)
