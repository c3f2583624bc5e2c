"""The command ``generate``: HMC configurations of an action, kept in a zarr ensemble."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lattice_lightning.data import EnsembleWriter
from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.checks import check_integer, check_numbers
from lattice_lightning.pipeline.compose import without_how
from lattice_lightning.pipeline.device import choose_device
from lattice_lightning.pipeline.processes import require_one_process
from lattice_lightning.samplers import ChainCheckpoint, Info, State, run
from lattice_lightning.seeds import derive_seed

__all__ = ["generate"]


def generate(config: Mapping[str, Any], path: Path, every: int, console: Console) -> Path:
    """Thermalise, then write every n-th configuration of all chains; goes on where it was killed.

    Args:
        config: resolved config of an experiment; ``sampling.n_steps`` trajectories are run.
        path: folder of the ensemble.
        every: trajectories between stored configurations.
        console: where to print.

    Raises:
        InputError: for an interval below one, or one longer than the run.
    """
    check_numbers(config)
    n_steps = int(config["sampling"]["n_steps"])
    if not 1 <= check_integer("every", every, 1) <= n_steps:
        raise InputError(f"every must be from 1 to sampling.n_steps={n_steps}, got {every}")
    require_one_process(config["trainer"], "generate")
    device = choose_device(config["trainer"])
    system = System(config, device)
    seed = int(config["seed"])
    rng = torch.Generator(device)
    rng.manual_seed(derive_seed(seed, "generate"))
    kernel = system.hmc()
    start = system.start(config["stream"]["n_chains"], derive_seed(seed, "start"))
    # in the ensemble's own folder: deleting it deletes what a new run would go on from
    chains = path / "chains"
    thermal = ChainCheckpoint(chains / "thermal.pt")
    produced = ChainCheckpoint(chains / "chain.pt", config["sampling"]["checkpoint_every"])
    # how long it is to become is not part of what a configuration is
    described = without_how(config)
    described["sampling"] = {k: v for k, v in config["sampling"].items() if k != "n_steps"}
    provenance = {"config": described, "seed": seed, "row": "hmc", "every": every}
    shape = tuple(start.shape)
    with EnsembleWriter(path, shape, n_steps // every, provenance, dtype=start.dtype) as writer:
        state = kernel.init(start, rng)
        if not produced.path.exists():
            state, _ = run(
                kernel, state, config["stream"]["n_thermalise"], rng, checkpoint=thermal,
                progress="thermalising",
            )

        def write(step: int, state: State, info: Info) -> None:
            if (step + 1) % every == 0:
                writer.append(state.field, step, [rng.get_state()])

        _, history = run(
            kernel, state, n_steps, rng, system.observables, on_step=write, checkpoint=produced,
            progress="generating",
        )
    rate = float(history["accepted"].mean())
    console.print(f"{n_steps // every} x {start.shape[0]} configurations in {path}; acceptance {rate:.3f}")
    return path
