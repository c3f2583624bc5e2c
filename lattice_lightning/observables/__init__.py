"""Observables: a field to one number a chain."""

from lattice_lightning.observables.base import Observable
from lattice_lightning.observables.fermion import ChiralCondensate
from lattice_lightning.observables.gauge import (
    Plaquette,
    PolyakovLoops,
    TopologicalCharge,
    WilsonLoop,
    plaquette,
    polyakov_loop,
)
from lattice_lightning.observables.scalar import ScalarMoments, ScalarPropagator
from lattice_lightning.observables.traces import InverseTraces

__all__ = [
    "ChiralCondensate",
    "InverseTraces",
    "Observable",
    "Plaquette",
    "PolyakovLoops",
    "ScalarMoments",
    "ScalarPropagator",
    "TopologicalCharge",
    "WilsonLoop",
    "plaquette",
    "polyakov_loop",
]
