"""LightningModules: one method each, one model inside."""

from lattice_lightning.methods.action_regression import ActionRegression, fit_linear

__all__ = ["ActionRegression", "fit_linear"]
