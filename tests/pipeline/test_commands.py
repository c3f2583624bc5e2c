"""The command that repeats a run, and what Hydra's refusals say."""

import shlex

import pytest
from small_runs import EXACT, SLICE, changed, composed, refused

from lattice_lightning.pipeline.compose import HOW, command_of

ADDED = {"sampler": "self_learning_hmc", "effective": {"masses": [0.6, 0.9]}, "train": False}
CHANGES = [
    {},
    {"sampling.n_steps": 7, "stream.ensemble": "a folder/it's \"here\".zarr", "training.scheduler": None},
    {"group": "SU(3)", "lattice": [8, 4], "stream.keep": True, "training.ridge": 1e-12},
    {"rows.other": ADDED, "rows.covnet.effective.masses": [0.6, 0.7], "rows.m0.train": False},
    {"action.gauge.name": "true", "action.fermion.name": "1.5", "action.fermion.boundary": [1, -1]},
    {"logger.wandb": {"project": "x=y, z", "group": None}, "min_mass": None},
    {"stream.ensemble": "back\\slash\\", "publish": "experiments/x", "dry_run": True},
    {"stream.ensemble": "\\'"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_command_gives_the_config_back(changes):
    config = changed(composed(SLICE), {"rows.m0": dict(ADDED), **changes})
    python, script, *overrides = shlex.split(command_of(config))
    assert (python, script) == ("python", "train.py")
    again = composed(*overrides)
    assert {**again, **{k: config[k] for k in HOW}} == config
    assert list(again["rows"]) == list(config["rows"])


def test_command_of_odd_rows_and_removed_keys():
    config = changed(composed(SLICE), {})
    config["rows"]["m 0.4 (a)"] = dict(ADDED)
    del config["rows"]["cask"], config["action"]["fermion"]["boundary"]
    del config["observables"]["polyakov"], config["observables"]["condensate"]
    assert composed(*shlex.split(command_of(config))[2:]) == config


def test_command_of_a_scan():
    scan = [{"group": "U(1)", "lattice": [4, 4], "betas": [1.0, 2], "observables": ["charge"]}]
    config = changed(composed(EXACT), {"scan": scan, "rows": {"h": {"sampler": "hmc"}}})
    assert composed(*shlex.split(command_of(config))[2:]) == config
    assert command_of(composed(EXACT)) == "python train.py experiment=hmc_exact"


def test_a_key_that_exists_is_not_suggested_for_itself(tmp_path, capsys):
    arguments = ["train", SLICE, "rows={mine: {sampler: hmc}}"]
    refused(arguments, r"Could not override 'rows'.*\+rows=.*\+\+rows=", tmp_path, capsys)
