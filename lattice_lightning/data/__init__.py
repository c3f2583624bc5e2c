"""Data: streaming HMC, stored ensembles, configurations of other codes."""

from lattice_lightning.data.bridge import read_bridge, write_bridge
from lattice_lightning.data.ensemble import Ensemble, EnsembleWriter
from lattice_lightning.data.formats import check_links, read_configuration, write_configuration
from lattice_lightning.data.ildg import read_ildg, write_ildg
from lattice_lightning.data.streaming import PairStream, TrajectoryData, batch_of, save_atomically

__all__ = [
    "Ensemble",
    "EnsembleWriter",
    "PairStream",
    "TrajectoryData",
    "batch_of",
    "check_links",
    "read_bridge",
    "read_configuration",
    "read_ildg",
    "save_atomically",
    "write_bridge",
    "write_configuration",
    "write_ildg",
]
