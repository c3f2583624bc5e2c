"""Bad values: one line that says what to do, before a run folder exists; never a traceback."""

import json

import pytest
from omegaconf import OmegaConf
from small_runs import EXACT, SLICE, changed, composed, refused

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.publish import check_target

MODELS = "rows.cask.effective.network"
LEVEL = "integrator.levels.0"

CASES = [
    # lattice, group, action
    ({"lattice": [4, 5]}, r"even extents, but extent 1 of \(4, 5\) is 5; use 4 or 6"),
    ({"lattice": [4]}, "expected 2, 3 or 4 extents"),
    ({"lattice": [4, 0]}, "extents of at least 2 each"),
    ({"lattice": 4}, "lattice shape must be a sequence of integers"),
    ({"lattice": [4, "four"]}, "lattice shape must be a sequence of integers"),
    ({"lattice": [4.5, 4]}, "lattice extents must be integers"),
    ({"group": "SU2x"}, r"unknown group 'SU2x'.*did you mean SU\(2\)"),
    ({"group": 5}, "unknown group '5': expected"),
    ({"group": "SU(1)"}, "needs N >= 2, got 1"),
    ({"group": "SU(0)"}, "needs N >= 2, got 0"),
    ({"group": "R"}, "gauge group.*R"),
    ({"action.fermion.mass": -0.3}, "mass must be positive and finite, got mass=-0.3"),
    ({"action.fermion.mass": "heavy"}, "StaggeredFermion cannot be made of .'mass': 'heavy'"),
    ({"action.fermion.mass": float("nan")}, "mass must be positive and finite, got mass=nan"),
    ({"action.gauge.beta": "strong"}, "WilsonGauge cannot be made of .'beta': 'strong'"),
    ({"action.gauge.beta": float("nan")}, "beta must be a finite number, got nan"),
    ({"action.gauge.betta": 2}, "WilsonGauge has no argument 'betta'; did you mean 'beta'"),
    ({"action.gauge._target_": "lattice_lightning.actions.Wilson"}, "Wilson' does not exist"),
    ({"action.gauge._target_": "lattice_lightning.observables.Plaquette"}, "is no Action, which"),
    ({"action": {}}, "has no action: choose one, as in action=wilson"),
    # observables and starts
    ({"observables.x": {"_target_": "lattice_lightning.observables.TopologicalCharge"}}, r"U\(1\)"),
    ({"lattice": [4, 6]}, "symmetrised"),
    ({"observables.plaquette.beta": 1}, "Plaquette has no argument 'beta'"),
    ({"observables.condensate.n_sources": 0}, "n_sources >= 1, got 0.3, 0"),
    ({"start": {"kind": "file", "path": ".", "sectors": None}}, r"no configuration at \."),
    ({"start.kind": "tepid"}, "unknown start 'tepid'"),
    ({"start.sectors": [1]}, "one centre sector for each"),
    ({"stream.ensemble": "nowhere"}, "nowhere is not an ensemble"),
    # integrators
    ({f"{LEVEL}.n_steps": 0}, "at least one step, got n_steps=0"),
    ({f"{LEVEL}.scheme": "rk4"}, "unknown integrator 'rk4': expected"),
    ({f"{LEVEL}.n_step": 2}, "integrator cannot be made of .* 'n_step'"),
    ({"integrator.levels": []}, "at least one level"),
    ({"integrator.levels": 5}, "integrator cannot be made of"),
    ({"integrator.trajectory_length": 0}, "trajectory_length must be positive"),
    ({"integrator.trajectory_length": "long"}, "integrator cannot be made of"),
    ({"integrator.steps": 5}, r"integrator has no key \['steps'\]"),
    # numbers
    ({"sampling.n_steps": 0}, "sampling.n_steps must be an integer of at least 1, got 0"),
    ({"sampling.n_steps": 2.5}, "sampling.n_steps must be an integer"),
    ({"sampling.n_steps": True}, "sampling.n_steps must be an integer"),
    ({"sampling.n_thermalise": -1}, "sampling.n_thermalise must be an integer of at least 0"),
    ({"sampling.save_every": 100}, "save_every=100 is longer than the run, sampling.n_steps=60"),
    ({"sampling.measure_every": 100}, "measure_every=100 is longer than the run"),
    ({"sampling.checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1"),
    ({"stream.n_chains": 0}, "stream.n_chains must be an integer of at least 1"),
    ({"seed": "abc"}, "seed must be an integer"),
    ({"seed": 1.5}, "seed must be an integer"),
    # rows
    ({"rows": None}, "lists no rows"),
    ({"rows.cask.sampled": 1}, r"row 'cask' has no key \['sampled'\]"),
    ({"rows.cask.sampler": "slhmc"}, "sampler must be one of hmc, self_learning_hmc, .*got 'slhmc'"),
    ({"rows.cask": None}, "row 'cask' must be like"),
    ({"rows.a/b": {"sampler": "hmc"}}, "the row name 'a/b' cannot be a file name"),
    ({"rows.hmc.effective": {"masses": [0.6]}}, "hmc has no effective action"),
    ({"rows.linear.effective": None}, "needs `effective"),
    ({"rows.linear.effective": [0.6]}, "needs `effective"),
    ({"rows.linear.effective.mass": 0.6}, r"effective has no key \['mass'\]"),
    ({"rows.linear.effective.masses": [0.3]}, "at least min_mass=0.6"),
    ({"rows.linear.effective.masses": []}, "at least one fermion mass"),
    ({"rows.linear.effective.masses": 0.6}, "effective action of .'masses': 0.6"),
    ({f"{MODELS}.s_max": 4}, "s_max"),
    ({f"{MODELS}.n_hed": 1}, "Cask has no argument 'n_hed'; did you mean 'n_heads'"),
    ({f"{MODELS}._target_": "lattice_lightning.models.EffectiveAction"}, "is no LinkMap"),
    ({"rows.covnet.effective.network.n_layers": 0}, "at least one layer"),
    ({"rows.linear.checkpoint": "nowhere.pt"}, "no checkpoint at nowhere.pt"),
    ({"rows.linear.training": {"epoch": 3}}, r"training has no key \['epoch'\]"),
    ({"training.epochs": 0}, "training.epochs must be an integer of at least 1, got 0"),
    ({"training.loss": "l2"}, "unknown loss 'l2'"),
    ({"training.optimizer._target_": "torch.optim.Adm"}, "'torch.optim.Adm' does not exist"),
    ({"training.optimizer.weight_decoy": 1}, "Adam has no argument 'weight_decoy'; did you mean"),
    ({"training.optimizer.lr": -1}, "(?i)invalid learning rate"),
    ({"training.scheduler._target_": "torch.optim.lr_scheduler.Cosine"}, "does not exist"),
    ({"training.scheduler._target_": "torch.optim.Adam"}, "is no LRScheduler"),
    ({"training.scheduler.T_mox": 1}, "no argument 'T_mox'; did you mean 'T_max'"),
    # device, folders
    ({"trainer.accelerator": "tpu"}, "trainer.accelerator must be cpu, gpu or auto"),
    ({"trainer.precision": "61-true"}, "trainer.precision must be one of 64-true, 32-true, got 61-true"),
    ({"trainer.precision": "16-true"}, "trainer.precision must be one of"),
    ({"trainer.strategy": "telepathy"}, "trainer .*strategy"),
    ({"trainer.devices": -3}, "trainer .*devices"),
    ({"trainer.threads": -2}, "trainer.threads must be an integer of at least 1"),
    ({"publish": "file.txt"}, "publish=file.txt is a file; give a folder"),
    ({"publish": "folder"}, "results.json cannot be kept"),
    ({"publish": "others"}, "holds results of another, which .* would replace"),
    ({"importance": None}, "importance must be like"),
    ({"importance.beside_training": 5}, "importance must be like"),
    ({"sampling_limits": {"n_stepz": 4}}, "sampling_limits has no key"),
    ({"output_dir": "file.txt"}, "cannot make the run folder"),
    ({"name": "../slice"}, "the experiment name '../slice' cannot be a file name"),
]
SCANS = [
    ({"scan": [{"group": "U(1)", "lattice": [4, 4, 4], "betas": [1.0]}]}, "known in two dimensions"),
    ({"scan": [{"group": "U(1)", "lattice": [4, 4], "beta": [1.0]}]}, r"scan has no key \['beta'\]"),
    ({"scan": [{"group": "U(1)", "lattice": [4, 4]}]}, r"needs \['betas'\]"),
    ({"scan": [{"group": "U(2)", "lattice": [4, 4], "betas": [1.0]}]}, "unknown group"),
    ({"scan.0.observables": ["charm"]}, r"no observable \['charm'\]; known: \['charge', 'plaquette'\]"),
    ({"scan.2.observables": ["charge"]}, r"U\(1\)"),
    ({"scan.0.n_steps": 0}, "n_steps must be an integer of at least 1"),
    ({"sampling.n_steps": 0}, "n_steps must be an integer of at least 1"),
]


def results_of(folder, experiment):
    rows = [{"row": "hmc", "summary": {"experiment": experiment}}]
    (folder / "results.json").write_text(json.dumps(rows))


def test_short_runs_do_not_replace_results(tmp_path):
    config = changed(composed(SLICE), {"publish": str(tmp_path), "sampling_limits": {"n_steps": 2}})
    check_target(config)
    results_of(tmp_path, config["name"])
    with pytest.raises(InputError, match="would replace"):
        check_target(config)
    check_target({**config, "sampling_limits": None})


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [(SLICE, *case) for case in CASES] + [(EXACT, *case) for case in SCANS],
    ids=[f"{key}={value}" for case in CASES + SCANS for key, value in case[0].items()],
)
def test_refused_before_a_folder(base, changes, message, tmp_path, monkeypatch, capsys):
    config = OmegaConf.create(changed(composed(base), changes))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("not a configuration")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "results.json").write_text("[")
    (tmp_path / "others").mkdir()
    results_of(tmp_path / "others", "another")
    monkeypatch.setattr("lattice_lightning.pipeline.compose.compose_config", lambda overrides: config)
    refused(["train"], message, tmp_path, capsys)
