"""Runs of ``coverage``: do the intervals of the bias-corrected estimator hold the truth as they say?

Many synthetic ensembles of each case, whose truth is known (:mod:`~lattice_lightning.pipeline.synthetic`).
The interval that is quoted is judged; what the Gamma error alone would have covered stands beside it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from lattice_lightning import __version__
from lattice_lightning.analysis.coverage import (
    HEADER,
    coverage_figure,
    coverage_of,
    coverage_table,
    gamma_coverage,
    write_coverage_report,
)
from lattice_lightning.analysis.tables import markdown_lines
from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.pipeline.checks import check_integer
from lattice_lightning.pipeline.compose import command_of
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.pipeline.publish import check_target, write_json, write_results
from lattice_lightning.pipeline.synthetic import COLUMNS, analysed, checked_cases
from lattice_lightning.pipeline.train import run_folder
from lattice_lightning.seeds import derive_seed

__all__ = ["coverage", "rewrite_report"]

Array = npt.NDArray[np.float64]


def coverage(config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Run every case, judge its coverage, write summary and report; resumable.

    Raises:
        InputError: for a case that cannot be run, before anything is.
    """
    cases = _check(config)
    check_target(config)
    require_one_process(config["trainer"], "a coverage run")
    n = int(config["coverage"]["n_ensembles"])
    if config["dry_run"]:
        table = Table("case", "labels", "effective", "unlabelled", "surrogate")
        for name, case in cases.items():
            labels = case["n_chains"] * case["n_correction"]
            table.add_row(
                name, str(labels), f"{labels / (2 * case['tau']):.0f}",
                str(case["n_chains"] * case["n_unlabelled"]),
                case["surrogate"]["_target_"].rpartition(".")[2],
            )
        console.print(table)
        return {}
    folder = run_folder(config)
    console.print(f"run folder {folder.path}")
    found = {
        name: _case(config, name, case, n, _file(folder, name)) for name, case in cases.items()
    }
    summary = _summary(config, cases, found)
    write_json(folder.summary, summary)
    write_coverage_report(folder.report, summary, found)
    table = Table(*HEADER)
    for line in coverage_table(summary["coverage"]):
        table.add_row(*line)
    console.print(table)
    if config["publish"]:
        _publish(Path(config["publish"]), folder, summary, found)
        console.print(f"published in {config['publish']}")
    console.print(f"report: {folder.report}")
    return summary


def rewrite_report(folder: RunFolder) -> Path:
    """report.html of a finished run again, from its summary and the ensembles that it kept.

    Raises:
        ResumeError: for a case whose file is not there or cannot be read.
    """
    summary = json.loads(folder.summary.read_text())
    found = {name: _stored(_file(folder, name)) for name in summary["coverage"]}
    return write_coverage_report(folder.report, summary, found)


def _check(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    given = config["coverage"]
    if not isinstance(given, Mapping) or set(given) != {"n_ensembles", "cases"} or not given["cases"]:
        raise InputError(f"coverage must be like {{n_ensembles: 2000, cases: {{...}}}}, got {given!r}")
    check_integer("coverage.n_ensembles", given["n_ensembles"], 2)
    check_integer("seed", config["seed"], 0)
    return checked_cases(given["cases"])


def _file(folder: RunFolder, name: str) -> Path:
    return folder.path / f"case_{name}.npz"


def _stored(path: Path) -> dict[str, Array]:
    """Columns of a case and the seconds that they took.

    Raises:
        ResumeError: for a file that cannot be read.
    """
    try:
        with path.open("rb") as saved, np.load(saved, allow_pickle=False) as stored:
            return {key: stored[key] for key in (*COLUMNS, "seconds")}
    except Exception as error:
        raise ResumeError(
            f"cannot read {path} ({type(error).__name__}); delete it to start anew"
        ) from error


def _case(
    config: Mapping[str, Any], name: str, case: Mapping[str, Any], n: int, path: Path
) -> dict[str, Array]:
    """``COLUMNS`` of every ensemble of a case; ensembles done before are kept."""
    stored = _stored(path) if path.exists() else {}
    columns: dict[str, list[float]] = {key: stored[key].tolist() if stored else [] for key in COLUMNS}
    seconds = float(stored["seconds"]) if stored else 0.0
    done = len(columns["pull"])
    tic = perf_counter()
    for k in tqdm(range(done, n), desc=name, initial=done, total=n, leave=False, disable=None):
        rng = np.random.default_rng(derive_seed(int(config["seed"]), "coverage", name, k))
        for key, value in analysed(case, rng).items():
            columns[key].append(value)
        if (k + 1) % 100 == 0 or k + 1 == n:
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                arrays: dict[str, Any] = {"seconds": seconds + perf_counter() - tic, **columns}
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    seconds += perf_counter() - tic
    return {**{key: np.array(v) for key, v in columns.items()}, "seconds": np.array(seconds)}


def _summary(
    config: Mapping[str, Any], cases: Mapping[str, Any], found: Mapping[str, Mapping[str, Array]]
) -> dict[str, Any]:
    judged = {}
    for name, columns in found.items():
        judged[name] = {
            **_coverage_of(name, columns["pull"]),
            "gamma_alone": gamma_coverage(columns["pull"], columns["pull_gamma"]),
            "refused": int(np.isnan(columns["pull"]).sum()),
            **{key: _mean(columns[key]) for key in ("correlation", "gain", "reliable", "warned")},
            "must_fail": bool(cases[name]["overlap"]),
            "seconds": float(columns["seconds"]),
        }
    return {
        "experiment": config["name"], "version": __version__, "seed": config["seed"], "device": "cpu",
        "threads": 1, "config": json.loads(json.dumps(config)),
        "seconds": sum(case["seconds"] for case in judged.values()),
        "coverage": judged,
        "ok": all(case["covers"] != case["must_fail"] for case in judged.values()),
    }


def _coverage_of(name: str, pulls: Array) -> dict[str, Any]:
    quoted = pulls[~np.isnan(pulls)]
    if not quoted.size:
        raise InputError(f"no ensemble of coverage.cases.{name} has an error to judge; lengthen its sets")
    return coverage_of(quoted)


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _publish(
    target: Path, folder: RunFolder, summary: Mapping[str, Any], found: Mapping[str, Mapping[str, Array]]
) -> None:
    common = {key: summary[key] for key in ("experiment", "version", "seed", "device", "threads")}
    cases = summary["config"]["coverage"]["cases"]
    rows = [
        {
            "row": name, "parameters": cases[name], "command": command_of(summary["config"]),
            "summary": {**common, "coverage": case},
        }
        for name, case in summary["coverage"].items()
    ]
    lines = markdown_lines(HEADER, coverage_table(summary["coverage"]))
    write_results(target, folder, rows, "\n".join(lines))
    coverage_figure(found).savefig(target / "figure.png", dpi=140)
