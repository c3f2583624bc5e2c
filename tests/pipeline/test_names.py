"""Composing configs: every experiment builds, misspelled names are told the nearest."""

import pytest
import torch
from rich.console import Console
from small_runs import EXACT, SLICE, composed, refused

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.classical import classical
from lattice_lightning.pipeline.compose import compose_config, config_folder, differences, experiments
from lattice_lightning.pipeline.coverage import coverage
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.points import check_points
from lattice_lightning.pipeline.scan import exact_values, points
from lattice_lightning.pipeline.surrogate import surrogate


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("not a configuration")


@pytest.mark.parametrize("name", list(experiments()))
def test_every_experiment_builds(name):
    config = composed(f"experiment={name}")
    assert config["name"] == name
    if config["scan"]:
        for point in points(config).values():
            system = System(point)
            assert system.start(2, 1).shape[0] == 2
            assert exact_values(point["group"], point["action"]["gauge"]["beta"], 16)
    elif config["coverage"]:
        assert coverage({**config, "dry_run": True}, Console(quiet=True)) == {}
    elif config["surrogate"]:
        assert surrogate({**config, "dry_run": True}, Console(quiet=True)) == {}
    elif config["classical"]:
        assert classical({**config, "dry_run": True}, Console(quiet=True)) == {}
    elif config["points"]:
        _, experiments_of = check_points(config)
        assert list(experiments_of) == list(config["points"])
    else:
        experiment = Experiment(config, None)
        assert list(experiment.kernels) == list(config["rows"])


@pytest.mark.parametrize(
    "option",
    [f"{p.parent.name}={p.stem}" for p in sorted(config_folder().glob("*/*.yaml"))
     if p.parent.name not in {"experiment", "start", "trainer", "observables", "integrator", "action"}],
)
def test_other_options_compose(option):
    assert composed(SLICE, option)["name"] == "slice_su2_2d"


NAMES = [
    (["experiment=slice_su2"], "no experiment is called 'slice_su2'; did you mean 'slice_su2_2d'"),
    (["experiment=zzz"], "Known: .*cask_su2, "),
    ([], "no value for name: choose an experiment .*cask_su2.*experiment=cask_su2"),
    (["experiment="], "no experiment is called ''; Known: .*cask_su2"),
    ([SLICE, "action=stagered"], "no action is called 'stagered'; did you mean 'staggered'"),
    ([SLICE, "trainer=gpus"], "no trainer is called 'gpus'; did you mean 'gpu'"),
    ([SLICE, "actions=wilson"], "'actions'; did you mean 'action'"),
    ([SLICE, "sampling.n_step=3"], "no key 'sampling.n_step'; did you mean 'sampling.n_steps'"),
    ([SLICE, "sed=3"], "no key 'sed'; did you mean 'seed'"),
    ([SLICE, "action.fermion.mas=3"], "did you mean 'action.fermion.mass'"),
    ([SLICE, "rows.cask.effective.network.n_block=3"], "mean 'rows.cask.effective.network.n_blocks'"),
    ([SLICE, "sampling"], "cannot be composed"),
    ([SLICE, "lattice=[4,4"], "cannot be composed"),
    ([SLICE, "action=null"], "cannot be composed"),
    ([SLICE, "training.epochs=many"], "training.epochs must be an integer of at least 1, got 'many'"),
    ([SLICE, "start=file"], "no value for start.path"),
    ([SLICE, "start=file", "start.path=nowhere.ildg"], "no configuration at nowhere.ildg"),
    ([SLICE, "start=file", "start.path=file.txt"], "entry 1 is 'not', expected a number"),
    ([SLICE, "action=wilson", "observables=gauge"], r"_target_ must name .*, got None in \{'mass': 0.3\}"),
    ([SLICE, "~action.fermion", "observables=gauge"], "row 'no_network': an effective action needs"),
    ([SLICE, "integrator=two_scales"], "effective action is one term"),
    ([SLICE, "observables=scalar"], "scalar moments need a real scalar field"),
    ([EXACT, "observables=su2_staggered"], r"(condensate|polyakov)\.\w+ takes its value from action\.fermion\.\w+"),
    ([EXACT, "scan=null", "rows={h: {sampler: hmc}}", "action=phi4", "observables=scalar"],
     r"phi\^4 is a theory of real scalars, got the group SU\(2\)"),
    ([EXACT, "scan=null", "rows={h: {sampler: hmc}}", "group=R"], "gauge group.*R"),
    (["resume=nowhere"], "nowhere is not a run folder"),
    ([SLICE, "resume=nowhere"], "nowhere is not a run folder"),
    (["resume=nowhere", "junk"], "nowhere is not a run folder"),
]


@pytest.mark.parametrize(("overrides", "message"), NAMES, ids=[",".join(c[0]) or "nothing" for c in NAMES])
def test_refused_before_a_folder(overrides, message, tmp_path, capsys):
    refused(["train", *overrides], message, tmp_path, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(tmp_path, capsys):
    refused(["train", SLICE, "trainer=gpu"], "but torch .* sees none; use trainer=cpu", tmp_path, capsys)


def test_overrides_reach_the_config():
    config = composed(SLICE, "debug=limit", "sampling.n_steps=7", "action.fermion.mass=0.9")
    assert config["sampling"]["n_steps"] == 7
    assert config["stream"]["n_chains"] == 8
    assert config["observables"]["condensate"]["mass"] == 0.9, "the condensate follows the sea mass"
    assert config["training"]["scheduler"]["T_max"] == 2 * 2


def test_experiment_comments_are_commands():
    for name, comment in experiments().items():
        assert comment.startswith(f"python train.py experiment={name} ")


def test_compose_leaves_no_hydra_state():
    from hydra.core.global_hydra import GlobalHydra

    compose_config([SLICE])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(InputError):
        compose_config(["experiment=x"])
    assert not GlobalHydra.instance().is_initialized()


def test_differences_of_nested_configs():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "same": 0}
    new = {"a": {"b": 2, "c": [1, 3]}, "e": 4, "same": 0}
    assert differences(old, new) == [
        "a.b: 1 -> 2", "a.c: [1, 2] -> [1, 3]", "d: None -> (absent)", "e: (absent) -> 4"
    ]
    assert differences(old, old) == []
