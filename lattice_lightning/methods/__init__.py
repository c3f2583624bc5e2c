"""LightningModules: one method each, one model inside."""

from lattice_lightning.methods.action_path import ActionPath, LinearPath, QuarticPath, ScaledPath
from lattice_lightning.methods.action_regression import ActionRegression, fit_linear
from lattice_lightning.methods.averaging import WeightAverage
from lattice_lightning.methods.continuity import ContinuityRegression
from lattice_lightning.methods.flow_method import FlowMethod, gather_draws
from lattice_lightning.methods.loss_options import Annealing, ForwardKL
from lattice_lightning.methods.network_regressors import LCNNRegressor, MLPRegressor
from lattice_lightning.methods.reverse_kl import ReverseKL
from lattice_lightning.methods.steps import StepIndices, step_generator
from lattice_lightning.methods.surrogate_regression import SurrogateRegression
from lattice_lightning.methods.sweep_regression import SweepRegression

__all__ = [
    "ActionPath",
    "ActionRegression",
    "Annealing",
    "ContinuityRegression",
    "FlowMethod",
    "ForwardKL",
    "LCNNRegressor",
    "LinearPath",
    "MLPRegressor",
    "QuarticPath",
    "ReverseKL",
    "ScaledPath",
    "StepIndices",
    "SurrogateRegression",
    "SweepRegression",
    "WeightAverage",
    "fit_linear",
    "gather_draws",
    "step_generator",
]
