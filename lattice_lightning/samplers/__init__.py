"""Markov kernels, integrators and the chain loop."""

from lattice_lightning.samplers.chain import ChainCheckpoint, FailureCount, History, run
from lattice_lightning.samplers.hmc import HMC, SelfLearningHMC
from lattice_lightning.samplers.integrators import SCHEMES, Level, integrate
from lattice_lightning.samplers.kernel import Info, Kernel, State, Trajectory, accept

__all__ = [
    "HMC",
    "SCHEMES",
    "ChainCheckpoint",
    "FailureCount",
    "History",
    "Info",
    "Kernel",
    "Level",
    "SelfLearningHMC",
    "State",
    "Trajectory",
    "accept",
    "integrate",
    "run",
]
