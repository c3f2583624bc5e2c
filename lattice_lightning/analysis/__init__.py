"""Errors, comparison of samplers, the summary, plots and the report."""

from lattice_lightning.analysis.comparison import Judgement, compare, judge_pulls
from lattice_lightning.analysis.errors import (
    Estimate,
    acceptance,
    autocorrelation_function,
    estimate,
    exp_minus_dH,
    format_entry,
    format_error,
    split_rhat,
)
from lattice_lightning.analysis.summary import (
    load_summary,
    observable_entry,
    validate_summary,
    value_error,
    write_summary,
)
from lattice_lightning.analysis.tables import doubts, rows_of, summary_table
from lattice_lightning.analysis.tunnelling import tunnelling_rate

__all__ = [
    "Estimate",
    "Judgement",
    "acceptance",
    "autocorrelation_function",
    "compare",
    "doubts",
    "estimate",
    "exp_minus_dH",
    "format_entry",
    "format_error",
    "judge_pulls",
    "load_summary",
    "observable_entry",
    "rows_of",
    "split_rhat",
    "summary_table",
    "tunnelling_rate",
    "validate_summary",
    "value_error",
    "write_summary",
]
