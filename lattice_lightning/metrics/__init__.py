"""Figures of merit of samplers: functions of tensors, and torchmetrics that sum them up."""

from lattice_lightning.metrics.functional import (
    acceptance_probability,
    boltzmann_factor,
    effective_sample_size,
    independence_acceptance,
)
from lattice_lightning.metrics.running import (
    AcceptanceProbability,
    EffectiveSampleSize,
    ExpMinusDeltaH,
)
from lattice_lightning.metrics.weights import (
    LogPartitionFunction,
    VarianceLogWeight,
    WeightStatistics,
    ess_from_target,
    rejection_autocorrelation,
    weight_statistics,
)

__all__ = [
    "AcceptanceProbability",
    "EffectiveSampleSize",
    "ExpMinusDeltaH",
    "LogPartitionFunction",
    "VarianceLogWeight",
    "WeightStatistics",
    "acceptance_probability",
    "boltzmann_factor",
    "effective_sample_size",
    "ess_from_target",
    "independence_acceptance",
    "rejection_autocorrelation",
    "weight_statistics",
]
