"""Paths, loops, staples, smearing and starts of gauge fields, in the packed layout."""

from lattice_lightning.gauge.paths import path_product, rectangle_path, wilson_loops
from lattice_lightning.gauge.smearing import stout
from lattice_lightning.gauge.staples import extended_staples, staple_sum, straight_loop
from lattice_lightning.gauge.starts import flip_centre_sector, set_sectors, start_field
from lattice_lightning.gauge.wilson_kernels import wilson_force, wilson_sum

__all__ = [
    "extended_staples",
    "flip_centre_sector",
    "path_product",
    "rectangle_path",
    "set_sectors",
    "staple_sum",
    "start_field",
    "stout",
    "straight_loop",
    "wilson_force",
    "wilson_loops",
    "wilson_sum",
]
