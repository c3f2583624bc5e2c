"""Seconds of processor time of one self-learning HMC trajectory of cask_su2, in a process of its own.

    python experiments/benchmarks/trajectory.py [float32]

Runs with any version of the package whose folder stands first in PYTHONPATH.
"""

import statistics
import sys
from time import process_time

import torch

from lattice_lightning.actions import StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import Cask, EffectiveAction
from lattice_lightning.samplers import SelfLearningHMC


def make(n_chains: int, precision: torch.dtype, seed: int = 1) -> tuple[SelfLearningHMC, torch.Generator]:
    """Kernel and generator of the CASK row: 4^4, beta 2.7, m = 0.3, two blocks, five Omelyan steps."""
    lattice, group = Lattice((4, 4, 4, 4)), SU2()
    target = SumAction(
        {"gauge": WilsonGauge(lattice, group, 2.7), "fermion": StaggeredFermion(lattice, group, 0.3)}
    )
    network = Cask(lattice, group, n_blocks=2, init_scale=0.003).to(precision)
    effective = EffectiveAction(target, [0.4], network=network)
    return SelfLearningHMC(target, effective, 1.0, 5), torch.Generator().manual_seed(seed)


def main() -> None:
    """Print the median of five trajectories of sixteen chains."""
    torch.set_num_threads(1)
    try:
        # as the command line does, where the version has it
        from lattice_lightning.pipeline.device import keep_memory

        keep_memory()
    except ImportError:
        pass
    kernel, rng = make(16, torch.float32 if "float32" in sys.argv else torch.float64)
    state = kernel.init(kernel.space.cold(kernel.lattice, 16), rng)
    times = []
    for _ in range(7):
        start = process_time()
        state, _ = kernel.step(rng, state)
        times.append(process_time() - start)
    print(statistics.median(times[2:]))


if __name__ == "__main__":
    main()
