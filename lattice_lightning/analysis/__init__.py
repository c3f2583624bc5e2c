"""Errors, comparison of samplers, the summary, plots and the report."""

from lattice_lightning.analysis.classical import classical_gain
from lattice_lightning.analysis.comparison import Judgement, compare, judge_pulls
from lattice_lightning.analysis.correction import Corrected, bias_corrected, optimal_scale
from lattice_lightning.analysis.cumulants import CUMULANTS, cumulant, predicted_moments, shifted_moments
from lattice_lightning.analysis.derived import corrected_function, estimate_function, linearised
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
from lattice_lightning.analysis.markov_sets import MarkovSets
from lattice_lightning.analysis.moments import Moments
from lattice_lightning.analysis.planner import Costs, Plan, error_at_cost, plan
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
    "CUMULANTS",
    "Corrected",
    "Costs",
    "Estimate",
    "Judgement",
    "MarkovSets",
    "Moments",
    "Plan",
    "acceptance",
    "autocorrelation_function",
    "bias_corrected",
    "classical_gain",
    "compare",
    "corrected_function",
    "cumulant",
    "doubts",
    "error_at_cost",
    "estimate",
    "estimate_function",
    "exp_minus_dH",
    "format_entry",
    "format_error",
    "judge_pulls",
    "linearised",
    "load_summary",
    "observable_entry",
    "optimal_scale",
    "plan",
    "predicted_moments",
    "rows_of",
    "shifted_moments",
    "split_rhat",
    "summary_table",
    "tunnelling_rate",
    "validate_summary",
    "value_error",
    "write_summary",
]
