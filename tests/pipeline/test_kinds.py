"""One kind of run a config: which, and two at once are refused by name before anything is written."""

from itertools import combinations

import pytest
from small_runs import EXACT, SLICE, composed, refused

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import KINDS, kind_of
from lattice_lightning.pipeline.compose import experiments

SOMETHING = {"a": 1}


@pytest.mark.parametrize("name", list(experiments()))
def test_every_experiment_is_of_one_kind(name):
    config = composed(f"experiment={name}")
    kind = kind_of(config)
    assert config[kind]
    assert set(KINDS) <= set(config), "every kind has its key in train.yaml"


def test_kinds_of_some_experiments():
    found = {name: kind_of(composed(f"experiment={name}")) for name in ("ama_coverage", "ama_su2", "flow_u1")}
    assert found == {"ama_coverage": "coverage", "ama_su2": "surrogate", "flow_u1": "points"}
    assert kind_of(composed(EXACT)) == "scan"
    assert kind_of(composed(SLICE)) == kind_of({}) == kind_of({"scan": None, "rows": {}}) == "rows"


@pytest.mark.parametrize(("one", "other"), list(combinations(KINDS, 2)))
def test_two_kinds_at_once(one, other):
    config = {one: SOMETHING, other: SOMETHING}
    if (one, other) == ("points", "rows"):
        assert kind_of(config) == "points", "points are of rows"
        return
    with pytest.raises(InputError, match=f"sets {one} and {other}, but a run is of one kind.*{other}=null"):
        kind_of(config)


def test_all_kinds_at_once():
    with pytest.raises(InputError, match=" and ".join(KINDS)):
        kind_of(dict.fromkeys(KINDS, SOMETHING))


CLI = [
    ([SLICE, "coverage={n_ensembles: 2, cases: {a: {}}}"], "coverage and rows.*rows=null"),
    (["experiment=ama_coverage", "surrogate={label: x}"], "coverage and surrogate.*surrogate=null"),
    ([EXACT, "rows={h: {sampler: hmc}}"], "scan and rows"),
    ([EXACT, "points={a: {seed: 2}}"], "scan and points"),
    (["experiment=flow_u1", "scan=[{group: u1}]"], "scan and points and rows"),
    (["experiment=ama_su2", "classical={label: x}", "dry_run=true"], "surrogate and classical"),
]


@pytest.mark.parametrize(("overrides", "message"), CLI, ids=[c[1] for c in CLI])
def test_refused_by_the_command(overrides, message, tmp_path, capsys):
    refused(["train", *overrides, f"output_dir={tmp_path}"], message, tmp_path, capsys)
