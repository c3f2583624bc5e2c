"""A logger that appends to one metrics.csv and never deletes it."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

__all__ = ["MetricsCsv", "read_metrics"]

COLUMNS = ("row", "epoch", "step", "metric", "value")


class MetricsCsv(Logger):
    """Long-format log (row, epoch, step, metric, value), one line a number.

    Lightning's own CSV logger deletes the file when a run goes on in its folder. This one cuts what
    lies beyond the step that the run resumes from, and appends.

    Args:
        path: the file.
        row: name of the row that trains.
        resume_epoch: entries of this row from that epoch on are dropped first; 0 drops all.
    """

    def __init__(self, path: Path, row: str, resume_epoch: int = 0) -> None:
        super().__init__()
        self.path, self.row = Path(path), row
        self._keep_until(resume_epoch)

    @property
    def name(self) -> str:
        """Logger name."""
        return "csv"

    @property
    def version(self) -> str:
        """Run version; there is one file a run."""
        return "0"

    @rank_zero_only
    def _keep_until(self, epoch: int) -> None:
        kept = []
        if self.path.exists():
            kept = [r for r in read_metrics(self.path) if r["row"] != self.row or r["epoch"] < epoch]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        partial.replace(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line a metric."""
        epoch = int(metrics.get("epoch", 0))
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            for name, value in metrics.items():
                if name != "epoch":
                    metric = name.removeprefix(f"{self.row}/")
                    writer.writerow((self.row, epoch, step, metric, repr(float(value))))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds config.yaml."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All entries, with numbers as numbers; a half-written last line is left out."""
    entries = []
    # a number that lost its last digits still reads as one: only a line with its end counts
    lines = Path(path).read_bytes().decode().splitlines(keepends=True)
    for entry in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            entries.append(
                {
                    "row": entry["row"],
                    "epoch": int(entry["epoch"]),
                    "step": int(entry["step"]),
                    "metric": entry["metric"],
                    "value": float(entry["value"]),
                }
            )
        except (TypeError, ValueError):
            continue
    return entries
