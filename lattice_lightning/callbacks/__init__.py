"""Callbacks and loggers: exact sampling beside training, the metrics file."""

from lattice_lightning.callbacks.exact_sampling import (
    ExactSampling,
    SamplingPlan,
    SamplingResult,
    sample_exactly,
)
from lattice_lightning.callbacks.importance_sampling import ImportanceSampling
from lattice_lightning.callbacks.metrics_csv import MetricsCsv, read_metrics

__all__ = [
    "ExactSampling",
    "ImportanceSampling",
    "MetricsCsv",
    "SamplingPlan",
    "SamplingResult",
    "read_metrics",
    "sample_exactly",
]
