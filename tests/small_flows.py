"""Configs of flow runs of seconds: phi^4 on 4x4, a RealNVP of two layers, four training steps."""

from copy import deepcopy

from small_runs import changed, composed

FLOW = "experiment=flow_phi4"
#: row of the config that trains a flow
ROW = "tutorial"

_MODELS = "lattice_lightning.models"
ROWS = {
    "hmc": {"sampler": "hmc"},
    "annealed": {
        "sampler": "annealed",
        "prior": {"_target_": f"{_MODELS}.FreeFieldPrior", "m2": 1.0},
        "annealing": {"n_steps": 2},
    },
    ROW: {
        "sampler": "independence",
        "prior": {"_target_": f"{_MODELS}.GaussianPrior"},
        "flow": {"_target_": f"{_MODELS}.RealNVP", "n_layers": 2, "hidden": [4]},
        "training": {"batch_size": 64, "n_epochs": 50, "steps_per_epoch": 50, "scheduler": None},
    },
}


def flow_config(*overrides):
    """phi^4 with HMC, annealing and one flow, whatever the rows of the experiment are now."""
    config = deepcopy(composed(FLOW, "start=cold", *overrides))
    config.update(lattice=[8, 8], points=None, exact=None, rows=deepcopy(ROWS))
    config["importance"]["beside_training"]["every_n_epochs"] = 1
    return config


def small_flow(output_dir, **changes):
    """The same in two epochs of two steps, on 4x4."""
    config = flow_config("debug=limit")
    config.update(lattice=[4, 4], output_dir=str(output_dir))
    config["sampling"]["checkpoint_every"] = 2
    return changed(config, changes)
