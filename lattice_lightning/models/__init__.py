"""Networks on gauge links, and the effective actions that they enter."""

from lattice_lightning.models.cask import Cask, CaskBlock
from lattice_lightning.models.covnet import ApeLayer, CovNet, StoutLayer
from lattice_lightning.models.effective_action import EffectiveAction
from lattice_lightning.models.flow import Flow, FlowModel, FlowStack, Prior
from lattice_lightning.models.link_map import LinkMap, LinkMapStack
from lattice_lightning.models.priors import FreeFieldPrior, GaussianPrior, HaarPrior

__all__ = [
    "ApeLayer",
    "Cask",
    "CaskBlock",
    "CovNet",
    "EffectiveAction",
    "Flow",
    "FlowModel",
    "FlowStack",
    "FreeFieldPrior",
    "GaussianPrior",
    "HaarPrior",
    "LinkMap",
    "LinkMapStack",
    "Prior",
    "StoutLayer",
]
