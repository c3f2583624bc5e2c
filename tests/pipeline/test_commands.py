"""The command that repeats a run, and what Hydra's refusals say."""

import shlex

import pytest
from small_runs import EXACT, SLICE, changed, composed, refused

from lattice_lightning.cli import plain_config
from lattice_lightning.exceptions import ResumeError
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


NAMES = ["mine", "my run (a)", "it's", "true", "1.5", 7]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_command_of_no_experiment(name):
    rows = {"h": {"sampler": "hmc"}, "m 0.4 (a)": dict(ADDED)}
    config = changed(composed("name=mine", "seed=3"), {"name": name, "rows": rows, "lattice": [4, 4]})
    assert composed(*shlex.split(command_of(config))[2:]) == config
    renamed = changed(composed(SLICE), {"name": name, "sampling.n_steps": 7})
    assert composed(*shlex.split(command_of(renamed))[2:]) == renamed
    assert command_of(composed("name=mine")) == "python train.py name=mine"


WHOLE = [[SLICE], ["name=mine", "rows={h: {sampler: hmc}}"], ["name=mine", "+scan=[{group: u1}]"]]


@pytest.mark.parametrize("given", WHOLE, ids=str)
def test_a_whole_command_beside_resume_is_compared(given):
    config = plain_config([*given, "resume=nowhere"])
    assert config == {**composed(*given), "resume": "nowhere"}


@pytest.mark.parametrize("given", [[], ["name=mine"], ["seed=2"], ["rows=null"], ["name=mine", "seed=2"]], ids=str)
def test_a_part_of_a_command_beside_resume_is_not(given):
    # the folder is looked for first
    with pytest.raises(ResumeError, match="nowhere is not a run folder"):
        plain_config([*given, "resume=nowhere"])


def test_a_key_that_exists_is_not_suggested_for_itself(tmp_path, capsys):
    arguments = ["train", SLICE, "rows={mine: {sampler: hmc}}"]
    refused(arguments, r"Could not override 'rows'.*\+rows=.*\+\+rows=", tmp_path, capsys)
