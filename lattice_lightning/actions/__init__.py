"""Actions: one theory a file, formula and normalisation in the docstring."""

from lattice_lightning.actions.base import Action, Aux, GaugeAction, SumAction
from lattice_lightning.actions.dense import DenseStaggered
from lattice_lightning.actions.gauge import ImprovedGauge, WilsonGauge
from lattice_lightning.actions.gaussian import GaussianAction, free_kernel
from lattice_lightning.actions.scalar import Phi4
from lattice_lightning.actions.scaled import MixedAction, ScaledAction, require_bosonic
from lattice_lightning.actions.sigma import ONPhi4
from lattice_lightning.actions.staggered import StaggeredFermion

__all__ = [
    "Action",
    "Aux",
    "DenseStaggered",
    "GaugeAction",
    "GaussianAction",
    "ImprovedGauge",
    "MixedAction",
    "ONPhi4",
    "Phi4",
    "ScaledAction",
    "StaggeredFermion",
    "SumAction",
    "WilsonGauge",
    "free_kernel",
    "require_bosonic",
]
