"""Coverage runs of seconds: what they leave behind, going on after a kill, what they refuse."""

import importlib
import json
import shlex

import numpy as np
import pytest
from small_runs import composed, refused

from lattice_lightning.analysis import MarkovSets, bias_corrected
from lattice_lightning.cli import main
from lattice_lightning.exceptions import ResumeError
from lattice_lightning.models import Ridge
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.synthetic import _ar1, analysed, synthetic_ensemble

MODULE = importlib.import_module("lattice_lightning.pipeline.coverage")
RIDGE = {"_target_": "lattice_lightning.models.Ridge"}
TREE = {"_target_": "lattice_lightning.models.DeepTrees"}
HONEST = {
    "n_chains": 1, "n_train": 30, "n_correction": 100, "n_unlabelled": 300, "gap": 10, "tau": 1.0,
    "surrogate": RIDGE,
}
KNOWING = {**HONEST, "n_unlabelled": 2000, "overlap": True, "surrogate": TREE, "form": "unlabelled"}
CASES = {"honest": HONEST, "knowing": KNOWING}
SHORT = {**HONEST, "n_chains": 32, "n_train": 5, "n_correction": 20, "n_unlabelled": 40, "tau": 5.0, "gap": 50}
#: chains of too few steps for the Gamma method
STUBS = {**HONEST, "n_chains": 32, "n_train": 4, "n_correction": 4, "n_unlabelled": 4}


def override(value):
    """A tree as Hydra reads it on a command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}: {override(v)}" for k, v in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def arguments(folder, cases, n=20, *more):
    coverage = override({"n_ensembles": n, "cases": cases})
    return ["train", "name=ama_coverage", f"output_dir={folder}", f"coverage={coverage}", *more]


def only_run(folder, name="ama_coverage"):
    (path,) = (folder / name).iterdir()
    return RunFolder(path)


def strict(path):
    def never(text):
        raise AssertionError(f"{path} holds {text}")

    return json.loads(path.read_text(), parse_constant=never)


def columns(folder, name="honest"):
    with np.load(folder.path / f"case_{name}.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files if key != "seconds"}


def same(one, other):
    return set(one) == set(other) and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of an uninterrupted run of 120 ensembles, published beside."""
    place = tmp_path_factory.mktemp("coverage")
    target = place / "published" / "ama_coverage"
    assert main(arguments(place / "runs", CASES, 120, f"publish={target}")) == 0
    return only_run(place / "runs"), target


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """The same run killed in its first case at ensemble 110, after the 100 that it keeps."""
    whole, calls = MODULE.analysed, []

    def dying(case, rng):
        calls.append(1)
        if len(calls) == 110:
            raise KeyboardInterrupt
        return whole(case, rng)

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "analysed", dying)
        assert main(arguments(tmp_path, CASES, 120)) == 130
    return only_run(tmp_path)


# -- synthetic ensembles -----------------------------------------------------------------------


def test_synthetic_ensemble_has_the_moments_that_it_promises():
    labels, features = synthetic_ensemble(200, 500, 2.0, np.random.default_rng(1))
    assert labels.shape == (200, 500) and features.shape == (200, 500, 2)
    error = labels.mean(1).std() / np.sqrt(200)
    assert abs(labels.mean()) < 4 * error
    # x^2 - 1 has variance 2 and is uncorrelated with x
    assert labels.var() == pytest.approx(1 + 0.09 * 2 + 0.09, rel=0.03)
    assert features[..., 0].var() == pytest.approx(1.01, rel=0.03)
    assert abs(np.corrcoef(features[..., 1].ravel(), labels.ravel())[0, 1]) < 0.02
    # in equilibrium from its first step
    assert labels[:, 0].var() == pytest.approx(1.27, rel=0.4)


@pytest.mark.parametrize("tau", [0.5, 2.0, 10.0])
def test_autocorrelation_of_a_series(tau):
    series = _ar1(400, 1000, tau, np.random.default_rng(2))
    assert series.var() == pytest.approx(1, rel=0.03)
    assert series[:, 0].var() == pytest.approx(1, rel=0.3)
    assert series.mean(1).var() * 1000 / 2 == pytest.approx(tau, rel=0.25)


# -- what a run leaves -------------------------------------------------------------------------


def test_dry_run_writes_nothing(tmp_path, capsys):
    assert main(arguments(tmp_path, CASES, 20, "dry_run=true")) == 0
    printed = capsys.readouterr().out
    assert "knowing" in printed and "DeepTrees" in printed
    assert not list(tmp_path.iterdir())


def test_small_run_writes_summary_and_report(tmp_path, capsys):
    assert main(arguments(tmp_path, CASES)) == 0
    folder = only_run(tmp_path)
    summary = strict(folder.summary)
    assert set(summary["coverage"]) == set(CASES)
    assert all(case["n"] + case["refused"] == 20 for case in summary["coverage"].values())
    assert summary["config"]["coverage"]["n_ensembles"] == 20
    page = folder.report.read_text()
    assert page.startswith("<!doctype html>") and "data:image/png" in page
    assert "knowing" in page and "n_ensembles: 20" in page
    assert f"report: {folder.report}" in capsys.readouterr().out.replace("\n", "")
    assert not list(folder.path.rglob("*.partial"))


def test_honest_covers_and_a_surrogate_that_knows_its_labels_does_not(finished):
    summary = strict(finished[0].summary)
    honest, knowing = summary["coverage"]["honest"], summary["coverage"]["knowing"]
    assert honest["covers"] and not honest["must_fail"]
    assert not knowing["covers"] and knowing["must_fail"]
    assert knowing["width"] > 1.4 * honest["width"]
    assert summary["ok"]
    # it knows them all: no correction is left
    assert knowing["correlation"] == pytest.approx(1, abs=1e-12)


def test_publishing(finished):
    folder, target = finished
    entries = strict(target / "results.json")
    assert [e["row"] for e in entries] == list(CASES)
    assert entries[1]["parameters"] == KNOWING
    summary = strict(folder.summary)
    assert entries[0]["summary"]["coverage"] == summary["coverage"]["honest"]
    assert entries[0]["summary"]["experiment"] == "ama_coverage"
    assert (target / "config.yaml").read_bytes() == (folder.path / "config.yaml").read_bytes()
    table = (target / "README.md").read_text()
    assert "| honest | 120 |" in table and "does not cover, as it must" in table
    assert (target / "figure.png").read_bytes().startswith(b"\x89PNG")


# -- the Gamma error alone ---------------------------------------------------------------------


def test_pulls_in_either_error():
    found = analysed({**SHORT, "form": "all", "overlap": False}, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    sets = MarkovSets.in_order(5, 20, 40, 50)
    labels, features = synthetic_ensemble(32, sets.n_steps, 5.0, rng)
    model = Ridge()
    model.fit(features[:, :5].reshape(-1, 2), labels[:, :5].ravel())
    guess = model.predict(features.reshape(-1, 2)).reshape(labels.shape)
    result = bias_corrected(labels[:, 55:75], guess[:, 55:75], guess[:, 125:])
    assert result.error == result.error_chains > result.error_gamma
    assert found["pull"] == pytest.approx(result.value / result.error_chains, rel=1e-10)
    assert found["pull_gamma"] == pytest.approx(result.value / result.error_gamma, rel=1e-10)


def test_gamma_alone_undercovers_on_short_chains_and_is_not_judged(tmp_path, capsys):
    assert main(arguments(tmp_path, {"short": SHORT}, 300)) == 0
    folder = only_run(tmp_path)
    summary = strict(folder.summary)
    case = summary["coverage"]["short"]
    gamma = case["gamma_alone"]
    assert case["covers"] and summary["ok"]
    assert not gamma["within_1"]["fits"] and not gamma["within_2"]["fits"]
    assert gamma["within_1"]["value"] < case["within_1"]["value"] - 0.05
    assert gamma["width"] > 1.15 * case["width"]
    assert gamma["n"] == case["n"] and gamma["without"] == 0
    stored = columns(folder, "short")
    assert gamma["within_1"]["value"] == np.mean(np.abs(stored["pull_gamma"]) < 1)
    cell = f"{gamma['within_1']['value']:.3f}(27) !"
    assert cell in folder.report.read_text() and "Gamma alone" in folder.report.read_text()


def test_one_chain_has_the_gamma_error_only(finished):
    stored = columns(finished[0])
    assert same({"a": stored["pull"]}, {"a": stored["pull_gamma"]})


def test_ensembles_without_a_gamma_error_are_counted(tmp_path):
    assert main(arguments(tmp_path, {"honest": HONEST, "stubs": STUBS}, 30)) == 0
    folder = only_run(tmp_path)
    case = strict(folder.summary)["coverage"]["stubs"]
    assert case["n"] == case["gamma_alone"]["without"] == 30
    assert case["gamma_alone"]["n"] == 0 and case["gamma_alone"]["within_1"] is None
    assert case["within_1"]["value"] > 0.4
    assert "<td>-</td><td>-</td><td>30</td>" in folder.report.read_text().replace("\n", "")


# -- its report --------------------------------------------------------------------------------


def test_report_command_writes_it_again(finished, capsys):
    folder = finished[0]
    before = folder.report.read_text()
    folder.report.unlink()
    assert main(["report", str(folder.path)]) == 0
    assert folder.report.read_text() == before
    assert f"report: {folder.report}" in capsys.readouterr().out.replace("\n", "")


def test_report_of_an_unfinished_or_damaged_run(killed, tmp_path, capsys):
    command = ["report", str(killed.path)]
    finish = r"no summary.json yet; finish it with: python train.py resume="
    refused(command, finish, tmp_path, capsys)
    assert main(["train", f"resume={killed.path}"]) == 0
    path = killed.path / "case_knowing.npz"
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    refused(command, "cannot read .*case_knowing.npz", tmp_path, capsys)
    path.unlink()
    refused(command, "cannot read .*case_knowing.npz.*FileNotFoundError", tmp_path, capsys)


# -- going on ----------------------------------------------------------------------------------


def test_killed_run_goes_on_bitwise(killed, finished):
    part = columns(killed)
    assert len(part["pull"]) == 100
    assert not killed.summary.exists()
    assert main(["train", f"resume={killed.path}"]) == 0
    for name in CASES:
        assert same(columns(killed, name), columns(finished[0], name))
    assert same(part, {key: values[:100] for key, values in columns(killed).items()})
    one, other = (strict(f.summary)["coverage"]["honest"] for f in (killed, finished[0]))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_finished_run_samples_nothing_again(killed, monkeypatch):
    assert main(["train", f"resume={killed.path}"]) == 0
    before = killed.summary.read_text()
    monkeypatch.setattr(MODULE, "analysed", None)
    assert main(["train", f"resume={killed.path}"]) == 0
    one, other = json.loads(before), json.loads(killed.summary.read_text())
    assert one["coverage"]["honest"]["within_1"] == other["coverage"]["honest"]["within_1"]


def test_damaged_case_and_another_config_are_not_gone_on_with(killed, tmp_path, capsys):
    more = [f"resume={killed.path}"]
    assert main(["train", "experiment=ama_coverage", *more]) == 1
    error = capsys.readouterr().err
    assert "started with another config" in error and "coverage.n_ensembles" in error
    path = killed.path / "case_honest.npz"
    path.write_bytes(b"PK of another kind")
    refused(["train", *more], "cannot read .*case_honest.npz.*delete it to start anew", tmp_path, capsys)
    with pytest.raises(ResumeError):
        MODULE._case({"seed": 1}, "honest", HONEST, 120, path)


def test_a_run_of_no_experiment_goes_on(tmp_path, capsys):
    given = arguments(tmp_path, {"honest": HONEST}, 20, "name=mine")
    given.remove("name=ama_coverage")
    assert main(given) == 0
    folder = only_run(tmp_path, "mine")
    before, more = columns(folder), f"resume={folder.path}"
    target = tmp_path / "published"
    for again in (["train", more], [*given, more], ["train", more, f"publish={target}"]):
        (folder.path / "case_honest.npz").unlink()
        folder.summary.unlink()
        assert main(again) == 0
        assert same(columns(folder), before) and folder.summary.exists()
    assert len(list((tmp_path / "mine").iterdir())) == 1
    (entry,) = strict(target / "results.json")
    python, script, *overrides = shlex.split(entry["command"])
    assert (python, script, overrides[0]) == ("python", "train.py", "name=mine")
    assert composed(*overrides)["coverage"] == folder.read_config()["coverage"]
    capsys.readouterr()
    assert main([*given, more, "seed=2"]) == 1
    assert "seed: 1 -> 2" in capsys.readouterr().err
    refused(["train", "name=mine", more], r"\['name'\] came too", tmp_path, capsys)


# -- what is refused ---------------------------------------------------------------------------

BAD = [
    ({"n_correction": 99}, r"honest has 50 effective labels.*judged from 50: n_correction of at least 100"),
    ({"tau": 5.0, "n_chains": 4}, "honest has 40 effective labels.*n_correction of at least 125"),
    ({"n_labels": 3}, r"coverage.cases.honest has no key \['n_labels'\]; known: form, gap"),
    ({"form": "both"}, "honest.form must be one of unlabelled, all, got 'both'"),
    ({"tau": 0.4}, "tau must be a number of at least 0.5, got 0.4"),
    ({"tau": "long"}, "tau must be a number of at least 0.5, got 'long'"),
    ({"gap": 0}, "honest.gap must be an integer of at least 1"),
    ({"n_chains": 1.5}, "honest.n_chains must be an integer"),
    ({"surrogate": {"_target_": "lattice_lightning.models.Forest"}}, "Forest' does not exist"),
    ({"surrogate": {"_target_": "lattice_lightning.observables.Plaquette"}}, "is no Regressor"),
    ({"surrogate": {**RIDGE, "ridge": -1}}, "ridge must not be negative"),
    ({"surrogate": {**RIDGE, "alpha": 1}}, "Ridge has no argument 'alpha'"),
    ({"surrogate": None}, "surrogate|_target_"),
    pytest.param({"overlap": "perhaps"}, "overlap must"),
    pytest.param({"tau": float("inf")}, "tau must be"),
    pytest.param({"tau": True}, "tau must be"),
    pytest.param({"n_train": 1}, "n_train"),
    pytest.param({"n_chains": 4, "n_correction": 50, "n_unlabelled": 4}, "n_unlabelled"),
]


@pytest.mark.parametrize("changes, message", BAD)
def test_bad_case(changes, message, tmp_path, capsys):
    refused(arguments(tmp_path, {"honest": {**HONEST, **changes}}), message, tmp_path, capsys)


def test_bad_run(tmp_path, capsys):
    refused(arguments(tmp_path, CASES, 1), "n_ensembles must be an integer of at least 2", tmp_path, capsys)
    lacking = {key: value for key, value in HONEST.items() if key != "tau"}
    refused(arguments(tmp_path, {"honest": lacking}), "honest needs tau", tmp_path, capsys)
    refused(arguments(tmp_path, {}), "coverage must be like", tmp_path, capsys)
    refused(arguments(tmp_path, CASES, 20, "seed=-1"), "seed must be an integer", tmp_path, capsys)
    refused(arguments(tmp_path, CASES, 20, "trainer.devices=2"), "coverage run", tmp_path, capsys)
    (tmp_path / "file").write_text("")
    refused(arguments(tmp_path, CASES, 20, f"publish={tmp_path}/file"), "is a file", tmp_path, capsys)


@pytest.mark.parametrize("cases", [{"a/b": HONEST}, {"honest": 5}])
def test_bad_name_or_kind_of_case(cases, tmp_path, capsys):
    refused(arguments(tmp_path, cases, 2), "coverage.cases", tmp_path, capsys)
