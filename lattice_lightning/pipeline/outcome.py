"""What an experiment found, and the files of a run folder that keep its series."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lattice_lightning.analysis import Estimate
from lattice_lightning.callbacks import read_metrics
from lattice_lightning.pipeline.folder import RunFolder

__all__ = [
    "Outcome", "load_histories", "load_log_weights", "read_all_metrics", "save_histories",
    "save_log_weights",
]


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        rows: of ``row_summary``.
        observables: estimates of every row.
        histories: ``{row: {name: [chains, steps]}}``.
        log_weights: of the direct draws of rows with a flow, and of annealing, ``{row: [n]}``.
        reference: row that the others are compared with; None for the exact values.
    """

    rows: dict[str, dict[str, Any]]
    observables: dict[str, dict[str, Estimate]]
    histories: dict[str, dict[str, Any]]
    log_weights: dict[str, Any]
    reference: str | None


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def save_histories(path: Path, histories: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``{row: {name: [chains, steps]}}`` as histories.npz."""
    _save(path, {f"{row}/{name}": a for row, h in histories.items() for name, a in h.items()})


def load_histories(path: Path) -> dict[str, dict[str, Any]]:
    """Histories of a run, ``{row: {name: [chains, steps]}}``."""
    histories: dict[str, dict[str, Any]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            # a row of one of several points has a slash in its name
            row, _, name = key.rpartition("/")
            histories.setdefault(row, {})[name] = stored[key]
    return histories


def save_log_weights(path: Path, log_weights: Mapping[str, Any]) -> None:
    """Write the log weights of direct draws, ``{row: [n]}``; nothing where there are none."""
    if log_weights:
        _save(path, log_weights)


def load_log_weights(path: Path) -> dict[str, Any]:
    """Log weights of a run, ``{row: [n]}``; empty where it has none."""
    if not path.exists():
        return {}
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def read_all_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Entries of metrics.csv, and of every point's with its rows named ``point/row``."""
    entries = read_metrics(folder.metrics) if folder.metrics.exists() else []
    for path in sorted(folder.path.glob("points/*/metrics.csv")):
        entries += [{**e, "row": f"{path.parent.name}/{e['row']}"} for e in read_metrics(path)]
    return entries
