"""Markov kernels, integrators and the chain loop."""

from lattice_lightning.samplers.alternating import Alternating
from lattice_lightning.samplers.annealed import AnnealedImportanceSampling
from lattice_lightning.samplers.chain import ChainCheckpoint, FailureCount, History, run
from lattice_lightning.samplers.fourier_hmc import FourierHMC, QuarticAction
from lattice_lightning.samplers.hmc import HMC, SelfLearningHMC
from lattice_lightning.samplers.independence import IndependenceMetropolis
from lattice_lightning.samplers.integrators import SCHEMES, Level, integrate
from lattice_lightning.samplers.kernel import Info, Kernel, State, Trajectory, accept
from lattice_lightning.samplers.latent_hmc import LatentHMC, TransformedAction
from lattice_lightning.samplers.proposal import DensityProposal, WeightedProposal

__all__ = [
    "HMC",
    "SCHEMES",
    "Alternating",
    "AnnealedImportanceSampling",
    "ChainCheckpoint",
    "DensityProposal",
    "FailureCount",
    "FourierHMC",
    "History",
    "IndependenceMetropolis",
    "Info",
    "Kernel",
    "LatentHMC",
    "Level",
    "QuarticAction",
    "SelfLearningHMC",
    "State",
    "Trajectory",
    "TransformedAction",
    "WeightedProposal",
    "accept",
    "integrate",
    "run",
]
