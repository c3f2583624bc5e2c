"""Dirac operators and their solvers."""

from lattice_lightning.fermions.dense import DenseStaggeredOperator
from lattice_lightning.fermions.solvers import Solution, multishift_cg
from lattice_lightning.fermions.staggered import EVEN, ODD, StaggeredOperator

__all__ = ["EVEN", "ODD", "DenseStaggeredOperator", "Solution", "StaggeredOperator", "multishift_cg"]
