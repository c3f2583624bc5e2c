"""Networks on gauge links, and the effective actions that they enter."""

from lattice_lightning.models.cask import Cask, CaskBlock
from lattice_lightning.models.class_flow import ClassFlow
from lattice_lightning.models.conditioners import ConvNet
from lattice_lightning.models.continuous import ContinuousFlow, StepHalving, VelocityBasis, step_halving
from lattice_lightning.models.coupling import AffineCoupling, SplineCoupling
from lattice_lightning.models.covnet import ApeLayer, CovNet, StoutLayer
from lattice_lightning.models.effective_action import EffectiveAction
from lattice_lightning.models.flow import Flow, FlowModel, FlowStack, Prior
from lattice_lightning.models.fourier_flow import FourierFlow, Scaling
from lattice_lightning.models.gauge_coupling import PlaquetteCoupling, U1Flow
from lattice_lightning.models.gauge_masks import GaugeStripes
from lattice_lightning.models.group_sweep import GroupSweep, PlaquetteSweep
from lattice_lightning.models.lcnn import LCNN
from lattice_lightning.models.link_map import LinkMap, LinkMapStack
from lattice_lightning.models.loop_velocity import LoopFlow, LoopVelocity
from lattice_lightning.models.masks import Checkerboard, Stripes
from lattice_lightning.models.mlp import MLP
from lattice_lightning.models.plaquette_chain import ChainAction, ChainFlow
from lattice_lightning.models.priors import FreeFieldPrior, GaussianFieldPrior, GaussianPrior, HaarPrior
from lattice_lightning.models.real_nvp import RealNVP, SplineFlow
from lattice_lightning.models.regressors import DeepTrees, Regressor, Ridge, Trees
from lattice_lightning.models.scalar_velocity import PlaneWaves, SmearedField
from lattice_lightning.models.spectral_coupling import SpectralCoupling, SpectralFlow
from lattice_lightning.models.splines import circular_rational_quadratic, rational_quadratic
from lattice_lightning.models.sweep_flow import SweepFlow

__all__ = [
    "LCNN",
    "MLP",
    "AffineCoupling",
    "ApeLayer",
    "Cask",
    "CaskBlock",
    "ChainAction",
    "ChainFlow",
    "Checkerboard",
    "ClassFlow",
    "ContinuousFlow",
    "ConvNet",
    "CovNet",
    "DeepTrees",
    "EffectiveAction",
    "Flow",
    "FlowModel",
    "FlowStack",
    "FourierFlow",
    "FreeFieldPrior",
    "GaugeStripes",
    "GaussianFieldPrior",
    "GaussianPrior",
    "GroupSweep",
    "HaarPrior",
    "LinkMap",
    "LinkMapStack",
    "LoopFlow",
    "LoopVelocity",
    "PlaneWaves",
    "PlaquetteCoupling",
    "PlaquetteSweep",
    "Prior",
    "RealNVP",
    "Regressor",
    "Ridge",
    "Scaling",
    "SmearedField",
    "SpectralCoupling",
    "SpectralFlow",
    "SplineCoupling",
    "SplineFlow",
    "StepHalving",
    "StoutLayer",
    "Stripes",
    "SweepFlow",
    "Trees",
    "U1Flow",
    "VelocityBasis",
    "circular_rational_quadratic",
    "rational_quadratic",
    "step_halving",
]
