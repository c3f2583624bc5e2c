"""Figures of merit of samplers: functions of tensors, and torchmetrics that sum them up."""

from lattice_lightning.metrics.functional import (
    acceptance_probability,
    boltzmann_factor,
    effective_sample_size,
)
from lattice_lightning.metrics.running import (
    AcceptanceProbability,
    EffectiveSampleSize,
    ExpMinusDeltaH,
)

__all__ = [
    "AcceptanceProbability",
    "EffectiveSampleSize",
    "ExpMinusDeltaH",
    "acceptance_probability",
    "boltzmann_factor",
    "effective_sample_size",
]
