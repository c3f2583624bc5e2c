"""The smallest system that has everything: SU(2) on 4x4 with one staggered field."""

import torch

from lattice_lightning.actions import StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import EffectiveAction
from lattice_lightning.samplers import HMC

MASS = 0.3


def target(lattice=None, group=None, mass=MASS, beta=2.0, md=1e-12, accept=1e-13, **options):
    """Wilson gauge action and one staggered field, with tight solvers unless said otherwise."""
    lattice, group = lattice or Lattice((4, 4)), group or SU2()
    fermion = StaggeredFermion(
        lattice, group, mass, tolerance_md=md, tolerance_accept=accept, compiled=False, **options
    )
    return SumAction({"gauge": WilsonGauge(lattice, group, beta), "fermion": fermion})


def effective(action, masses=(0.6,), **options):
    """Effective action with masses that are at least twice the target's."""
    return EffectiveAction(action, list(masses), **options)


def hmc(action=None, levels=3, trajectory_length=1.0):
    """HMC of the toy with solvers loose enough to stream quickly."""
    return HMC(action or target(md=1e-7, accept=1e-10), trajectory_length, levels)


def start(kernel, n_chains=4, seed=5):
    """Hot start of all chains."""
    rng = torch.Generator().manual_seed(seed)
    return kernel.space.hot(kernel.lattice, n_chains, rng)
