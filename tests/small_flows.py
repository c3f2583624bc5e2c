"""Configs of flow runs of seconds: phi^4 on 4x4, a RealNVP of two layers, four training steps."""

from copy import deepcopy

from small_runs import changed, composed

FLOW = "experiment=flow_phi4"
#: row of the config that trains a flow
ROW = "tutorial"


def small_flow(output_dir, **changes):
    """HMC, annealing and one flow, trained in two epochs of two steps."""
    config = deepcopy(composed(FLOW, "debug=limit"))
    config.update(lattice=[4, 4], output_dir=str(output_dir), points=None)
    config["rows"] = {name: config["rows"][name] for name in ("hmc", "annealed", ROW)}
    config["rows"][ROW]["flow"].update(n_layers=2, hidden=[4])
    config["rows"]["annealed"]["annealing"] = {"n_steps": 2}
    config["sampling"]["checkpoint_every"] = 2
    return changed(config, changes)
