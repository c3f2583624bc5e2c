"""The command ``report``: report.html of a finished run, from what its folder holds."""

from pathlib import Path

from lattice_lightning.analysis import load_summary
from lattice_lightning.analysis.report import write_report
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import load_histories, load_log_weights, read_all_metrics

__all__ = ["rewrite_report"]


def rewrite_report(path: str | Path) -> Path:
    """Write the report again.

    Raises:
        InputError: when the run has not finished, or is one of coverage or of surrogates.
    """
    folder = RunFolder.find(path)
    if any(folder.read_config().get(kind) for kind in ("coverage", "surrogate")):
        raise InputError(
            f"{folder.path} has a report of its own kind; write it again with: python train.py "
            f"resume={folder.path}"
        )
    histories = folder.path / "histories.npz"
    if not folder.summary.exists() or not histories.exists():
        raise InputError(
            f"{folder.path} has no summary.json yet; finish it with: python train.py resume={folder.path}"
        )
    return write_report(
        folder.report, load_summary(folder.summary), read_all_metrics(folder), load_histories(histories),
        load_log_weights(folder.path / "log_weights.npz"),
    )
