"""The command ``report``: report.html of a finished run, from what its folder holds."""

from collections.abc import Callable
from pathlib import Path

from lattice_lightning.analysis import load_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline import coverage, surrogate
from lattice_lightning.pipeline.checks import kind_of
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import load_histories, load_log_weights, read_all_metrics

__all__ = ["WRITERS", "rewrite_report"]


def _rewrite_rows(folder: RunFolder) -> Path:
    histories = folder.path / "histories.npz"
    if not histories.exists():
        raise _unfinished(folder, histories)
    return write_report(
        folder.report, load_summary(folder.summary), read_all_metrics(folder), load_histories(histories),
        load_log_weights(folder.path / "log_weights.npz"),
    )


def _unfinished(folder: RunFolder, missing: Path) -> InputError:
    return InputError(
        f"{folder.path} has no {missing.name} yet; finish it with: python train.py resume={folder.path}"
    )


#: by kind of run, what writes the report of a finished one again
WRITERS: dict[str, Callable[[RunFolder], Path]] = {
    "coverage": coverage.rewrite_report,
    "surrogate": surrogate.rewrite_report,
    "scan": _rewrite_rows,
    "points": _rewrite_rows,
    "rows": _rewrite_rows,
}


def rewrite_report(path: str | Path) -> Path:
    """Write the report again.

    Raises:
        InputError: when the run has not finished, or is of a kind that ``WRITERS`` does not have.
        ResumeError: when the path is of no run, or a file in its folder cannot be read.
    """
    folder = RunFolder.find(path)
    kind = kind_of(folder.read_config())
    if kind not in WRITERS:
        raise InputError(
            f"{folder.path} has a report of its own kind; write it again with: python train.py "
            f"resume={folder.path}"
        )
    if not folder.summary.exists():
        raise _unfinished(folder, folder.summary)
    return WRITERS[kind](folder)
