"""Putting a run's results where the repository keeps them: experiments/<name>/."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattice_lightning.analysis import rows_of
from lattice_lightning.analysis.plots import observables_figure, overview_figure
from lattice_lightning.pipeline.folder import RunFolder

__all__ = ["publish", "result_rows"]


def result_rows(summary: Mapping[str, Any], command: str) -> list[dict[str, Any]]:
    """One entry a row, ``{row, parameters, command, summary}``, as results.json keeps them."""
    config = summary["config"]
    entries = []
    for name, row in rows_of(summary):
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
                },
            }
        )
    return entries


def publish(target: Path, folder: RunFolder, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write results.json, figures and the headline's weights; published values are kept.

    Entries of results.json that have a ``source`` (published values) stay as they are.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    command = f"python train.py experiment={config['name']}"
    if int(config["seed"]) != 1:
        command += f" seed={config['seed']}"
    path = target / "results.json"
    old = json.loads(path.read_text()) if path.exists() else []
    entries = [e for e in old if "source" in e or "ratio" in e] + result_rows(summary, command)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entries, indent=1, allow_nan=False) + "\n")
    partial.replace(path)
    overview_figure(summary).savefig(target / "figure.png", dpi=140)
    observables_figure(summary).savefig(target / "observables.png", dpi=140)
    weights = folder.weights(str(summary.get("row", "")))
    if weights.exists():
        shutil.copyfile(weights, target / f"{weights.stem}.pt")
    return target
