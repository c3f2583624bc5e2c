"""summary.json: what is refused by name, atomic writing, and what a run does not resolve."""

import copy
import json

import pytest

from lattice_lightning.analysis import (
    Estimate,
    doubts,
    load_summary,
    observable_entry,
    summary_table,
    validate_summary,
    value_error,
    write_summary,
)
from lattice_lightning.exceptions import FormatError, InputError


def observable(value=0.5, error=0.01, reliable=True, reason=None):
    estimate = Estimate(value, error, error, error, 1.0, 1.0, 100.0, reliable, reason, 8, 100)
    return observable_entry(estimate)


def row(**changes):
    sampling = {
        "kernel": "hmc", "n_chains": 8, "n_steps": 100, "seconds": 1.5,
        "acceptance": {"value": 0.9, "error": 0.01}, "exp_minus_dH": {"value": 1.0, "error": 0.02},
        "var_dH": 0.1, "n_effective": 100.0, "solver_iterations": {"md": None, "accept": None},
        "seconds_per_effective_sample": {"with_training": None, "without_training": 0.015},
    }
    return {
        "model": {"name": "none", "n_parameters": 0}, "training": None, "sampling": sampling,
        "observables": {"plaquette": observable()}, "comparison": None, **changes,
    }


@pytest.fixture
def summary():
    top = {"experiment": "test", "version": "1", "seed": 1, "device": "cpu", "threads": 1, "config": {}}
    training = {"steps": 3, "seconds": 1, "loss": {"first": 1.0, "last": None}}
    comparison = {"chi2": 1.0, "dof": 1, "p_value": 0.3}
    return {**top, **row(training=training, comparison=comparison), "baselines": {"hmc": row()}}


def put(tree, path, value):
    *parents, last = path.split(".")
    for key in parents:
        tree = tree[key]
    if value is KeyError:
        del tree[last]
    else:
        tree[last] = value


@pytest.mark.parametrize(
    "path",
    [
        "experiment", "seed", "threads", "config", "model", "model.n_parameters", "training",
        "training.loss.last", "sampling.acceptance", "sampling.acceptance.error",
        "sampling.solver_iterations.md", "sampling.seconds_per_effective_sample.with_training",
        "observables", "observables.plaquette.error_chains", "observables.plaquette.reliable",
        "comparison", "comparison.p_value", "baselines.hmc.comparison", "baselines.hmc.sampling.var_dH",
        "baselines.hmc.observables.plaquette.tau_int",
    ],
)
def test_missing_key_is_named(summary, path):
    validate_summary(summary)
    put(summary, path, KeyError)
    with pytest.raises(InputError, match=rf"summary: {path} is missing".replace(".", r"\.")):
        validate_summary(summary)


def test_baselines_must_be_there(summary):
    del summary["baselines"]
    with pytest.raises(InputError, match="baselines must be an object"):
        validate_summary(summary)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("seed", "one", "seed must be int, got 'one'"),
        ("seed", True, "seed must be int, got True"),
        ("sampling.n_steps", 1.5, "sampling.n_steps must be int"),
        ("sampling.seconds", None, "sampling.seconds must be int or float"),
        ("observables.plaquette.reliable", 1, "reliable must be bool, got 1"),
        ("model", [], "model must be an object, got list"),
        ("sampling.var_dH", float("nan"), "sampling.var_dH is nan; write null"),
        ("baselines.hmc.sampling.acceptance.value", float("inf"), "acceptance.value is inf"),
        ("config", {"list": [1.0, float("nan")]}, r"config.list\[1\] is nan"),
    ],
)
def test_wrong_value_is_named_and_not_written(summary, path, value, message, tmp_path):
    put(summary, path, value)
    with pytest.raises(InputError, match=message):
        write_summary(tmp_path / "summary.json", summary)
    assert list(tmp_path.iterdir()) == []


def test_round_trip(summary, tmp_path):
    path = write_summary(tmp_path / "summary.json", summary)
    assert load_summary(path) == summary
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_kill_while_writing_leaves_the_old_file(summary, tmp_path, monkeypatch):
    path = write_summary(tmp_path / "summary.json", summary)

    def die(tree, file, **options):
        file.write('{"half":')
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", die)
    with pytest.raises(KeyboardInterrupt):
        write_summary(path, {**summary, "seed": 2})
    assert load_summary(path)["seed"] == 1


def test_file_that_is_not_json(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text('{"seed": 1')
    with pytest.raises(FormatError, match=r"summary\.json is not JSON"):
        load_summary(path)


def test_entries_of_an_estimate():
    known = Estimate(0.5, 0.1, 0.1, 0.1, 1.0, 1.0, 9.0, False, "too short", 8, 10, exact=0.45)
    assert value_error(known) == {"value": 0.5, "error": 0.1}
    entry = observable_entry(known)
    assert entry["exact"] == 0.45 and entry["reason"] == "too short" and entry["reliable"] is False
    assert "exact" not in observable()


def test_nothing_to_doubt(summary):
    assert doubts(summary) == []


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("observables.plaquette", observable(reliable=False, reason="it froze"), "not reliable: it froze (plaquette)"),
        ("sampling.exp_minus_dH", {"value": 1.2, "error": 0.05}, "is not one"),
        ("sampling.var_dH", 2.0, "too large for <exp"),
        ("sampling.n_failed", 3, "3 trajectories ended without a finite dH"),
        ("comparison", {"chi2": 30.0, "dof": 3, "p_value": 1e-6}, "differs from its reference"),
    ],
)
def test_doubts_name_row_and_trouble(summary, path, value, said):
    for prefix, name in (("", "test"), ("baselines.hmc.", "hmc")):
        doubtful = copy.deepcopy(summary)
        put(doubtful, prefix + path, value)
        (sentence,) = doubts(doubtful)
        assert sentence.startswith(f"{name}: ") and said in sentence


def weights(ess=0.5, n=1000, log_z=(2.0, 0.01)):
    return {
        "ess": {"value": ess, "error": 0.01, "n": n}, "log_z": {"value": log_z[0], "error": log_z[1]},
        "var_log_w": 1.0, "n_failed_draws": 0,
    }


@pytest.mark.parametrize("path", ["ess.n", "ess.error", "log_z", "log_z.value", "var_log_w", "n_failed_draws"])
def test_missing_entry_of_weights_is_named(summary, path):
    summary["sampling"].update(weights())
    validate_summary(summary)
    put(summary, f"sampling.{path}", KeyError)
    with pytest.raises(InputError, match=rf"summary: sampling\.{path} is missing"):
        validate_summary(summary)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, None),
        ({"ess": {"value": 0.5, "error": 0.1, "n": 100}}, "rests on 50.0 effective draws of 100"),
        ({"n_failed_draws": 2}, "2 draws have no finite weight"),
        ({"log_z": {"value": 2.1, "error": 0.01}}, "log Z is 7.1 errors from that of hmc"),
        ({"log_z": {"value": 2.01, "error": 0.01}}, None),
        ({"log_z": {"value": 9.0, "error": 0.01}, "ess": {"value": 0.05, "error": 0.1, "n": 1000}},
         "rests on 50.0 effective draws"),
        ({"step_halving": {"n": 64, "log_q": 0.003, "log_w": 0.09, "log_z": 0.009}}, None),
        ({"step_halving": {"n": 64, "log_q": 0.003, "log_w": 0.09, "log_z": -0.02}}, "move log Z by 0.02"),
        ({"step_halving": {"n": 64, "log_q": 0.003, "log_w": 0.2, "log_z": 0.0}}, "change log w by 0.2"),
        ({"step_halving": {"n": 64, "log_q": 0.3, "log_w": 0.01, "log_z": 0.0}}, "change log q by 0.3"),
    ],
)
def test_doubts_about_weights(summary, changes, said):
    summary["baselines"]["hmc"]["sampling"].update(weights())
    summary["sampling"].update({**weights(), **changes})
    found = doubts(summary)
    assert len(found) == (said is not None)
    assert all(sentence.startswith("test: ") and said in sentence for sentence in found)


def test_rows_of_other_points_have_another_partition_function(summary):
    summary["baselines"] = {"A/flow": row()}
    summary["baselines"]["A/flow"]["sampling"].update(weights())
    summary.update(row="B/flow")
    summary["sampling"].update(weights(log_z=(9.0, 0.01)))
    assert doubts(summary) == []


def test_columns_of_flows(summary):
    summary["sampling"].update(weights())
    table = summary_table(summary)
    assert [column.header for column in table.columns][4:8] == ["ESS", "acceptance", "Var(log w)", "log Z"]
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["ESS"] == ["", "0.50(1)"]
    assert cells["log Z"] == ["", "2.00(1)"]
    summary["sampling"]["log_z"]["exact"] = 1.98
    assert list(summary_table(summary).columns[7].cells)[1] == "2.00(1) [+2.0]"
    summary["sampling"]["log_z"].update(value=1.98 + 1e-12, error=1e-13)
    assert "[exact to 1e-12]" in list(summary_table(summary).columns[7].cells)[1]


@pytest.mark.parametrize("loop_x, found", [(-0.84, 0), (+0.84, 1)])
def test_centre_sectors_that_disagree(summary, loop_x, found):
    loops = {"x": loop_x, "y": -0.83, "z": -0.85, "t": 0.84}
    for axis, value in loops.items():
        summary["observables"][f"polyakov_loop_{axis}"] = observable(value, 0.02)
    summary["observables"]["polyakov_loop_symmetrised"] = observable(0.84, 0.01)
    sentences = doubts(summary)
    assert len(sentences) == found
    assert all("centre sectors are not equilibrated" in s for s in sentences)
