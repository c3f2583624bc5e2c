"""Data: streaming HMC, stored ensembles and labels of them, configurations of other codes."""

from lattice_lightning.data.bridge import read_bridge, write_bridge
from lattice_lightning.data.ensemble import Ensemble, EnsembleWriter
from lattice_lightning.data.formats import check_links, read_configuration, write_configuration
from lattice_lightning.data.ildg import read_ildg, write_ildg
from lattice_lightning.data.labels import Labels, labels_to_resume, measure_labels
from lattice_lightning.data.streaming import PairStream, TrajectoryData, batch_of

__all__ = [
    "Ensemble",
    "EnsembleWriter",
    "Labels",
    "PairStream",
    "TrajectoryData",
    "batch_of",
    "check_links",
    "labels_to_resume",
    "measure_labels",
    "read_bridge",
    "read_configuration",
    "read_ildg",
    "write_bridge",
    "write_configuration",
    "write_ildg",
]
