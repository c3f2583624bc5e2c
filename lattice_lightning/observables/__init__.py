"""Observables: a field to one number a chain."""

from lattice_lightning.observables.base import Observable
from lattice_lightning.observables.dense import DenseCondensate
from lattice_lightning.observables.features import GaugeFeatures
from lattice_lightning.observables.fermion import ChiralCondensate
from lattice_lightning.observables.gauge import (
    Plaquette,
    PolyakovLoops,
    TopologicalCharge,
    WilsonLoop,
    plaquette,
    polyakov_loop,
)
from lattice_lightning.observables.mesons import StaggeredMesons, point_correlators
from lattice_lightning.observables.products import distinct_products
from lattice_lightning.observables.scalar import ScalarMoments, ScalarPropagator
from lattice_lightning.observables.sloppy import SloppySources
from lattice_lightning.observables.traces import InverseTraces

__all__ = [
    "ChiralCondensate",
    "DenseCondensate",
    "GaugeFeatures",
    "InverseTraces",
    "Observable",
    "Plaquette",
    "PolyakovLoops",
    "ScalarMoments",
    "ScalarPropagator",
    "SloppySources",
    "StaggeredMesons",
    "TopologicalCharge",
    "WilsonLoop",
    "distinct_products",
    "plaquette",
    "point_correlators",
    "polyakov_loop",
]
