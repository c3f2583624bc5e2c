"""Configs for runs of seconds, composed once, and what a refused command looks like."""

import os
import re
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

from lattice_lightning.cli import main, plain_config

SLICE = "experiment=slice_su2_2d"
EXACT = "experiment=hmc_exact"
TRAIN = Path(__file__).resolve().parents[1] / "train.py"
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


@cache
def composed(*overrides):
    """A resolved config; do not change it."""
    return plain_config(overrides)


def changed(config, changes):
    """A copy with ``{"a.b.0.c": value}`` set; a value of None deletes nothing."""
    config = deepcopy(config)
    for key, value in changes.items():
        *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    return config


def small(output_dir, **changes):
    """Three rows of the 2d slice: HMC, a linear fit, a network; a few trajectories each."""
    config = deepcopy(composed(SLICE, "debug=limit"))
    config["rows"] = {name: config["rows"][name] for name in ("hmc", "linear", "covnet")}
    config["rows"]["covnet"]["effective"]["network"]["n_layers"] = 1
    config["integrator"]["levels"][0]["n_steps"] = 2
    config["action"]["fermion"]["mass"] = config["observables"]["condensate"]["mass"] = 0.5
    config["output_dir"] = str(output_dir)
    config["sampling"]["checkpoint_every"] = 2
    return changed(config, changes)


def refused(arguments, message, folder, capsys):
    """Status 1, one line on stderr that matches, and nothing new in the folder."""
    before = sorted(folder.rglob("*"))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(folder.rglob("*")) == before


def command(*arguments):
    """train.py in a process of its own, which may start others."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in LAUNCHER:
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, str(TRAIN), *arguments], capture_output=True, text=True, check=False,
        env=environment, timeout=300,
    )
