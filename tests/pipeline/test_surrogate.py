"""Runs of ``surrogate``: ensemble, labels, surrogates, correction, report; refused configs write nothing."""

import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from small_runs import changed, composed, refused

from lattice_lightning.data import Ensemble, Labels
from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.pipeline.report import rewrite_report
from lattice_lightning.pipeline.surrogate import surrogate

QUIET = Console(quiet=True)
RIDGE = {"_target_": "lattice_lightning.models.Ridge"}
LOOPS = ["plaquette", "wilson_loop_1x2"]
N_CHAINS, SETS = 8, {"n_train": 15, "n_correction": 20, "n_unlabelled": 30, "gap": 3}


def small(folder, **changes):
    """2d SU(2), 4x4: seconds, with strong correlations."""
    config = composed("experiment=ama_su2")
    traces = {**config["observables"]["traces"], "n_sources": 4, "powers": [1, 2], "mass": 0.5, "moments": 2}
    observables = {**config["observables"], "traces": traces, "few": None}
    observables["wilson"] = {**observables["wilson"], "sizes": [[1, 2]]}
    return changed(
        config,
        {
            "lattice": [4, 4], "start": {"kind": "hot", "sectors": None}, "action.fermion.mass": 0.5,
            "observables": observables, "stream.n_chains": N_CHAINS, "sampling.n_thermalise": 2,
            "integrator.levels.0.n_steps": 3, "output_dir": str(folder),
            "surrogate.every": 1, "surrogate.cheaper": [], "surrogate.measured_by": "",
            "surrogate.sets": dict(SETS), "surrogate.label": ["trace_inverse_2", "susceptibility"],
            "surrogate.regressors": {"loops": {"features": list(LOOPS), "model": dict(RIDGE)}},
            **changes,
        },
    )


def run_of(folder):
    (run,) = (folder / "ama_su2").iterdir()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surrogate")
    summary = surrogate(small(folder), QUIET)
    return folder, summary


def test_rows_figures_and_files(finished):
    folder, summary = finished
    run = run_of(folder)
    assert json.loads((run / "summary.json").read_text()) == summary
    assert (run / "report.html").read_text().count("data:image/png") == 2
    assert list(summary["surrogates"]) == ["trace_inverse_2", "susceptibility"]
    for rows in summary["surrogates"].values():
        assert list(rows) == ["loops", "loops, trained at neighbour"]
    row = summary["surrogates"]["trace_inverse_2"]["loops"]
    assert (row["n_train"], row["n_bc"], row["n_unlabelled"], row["n_labels"]) == (96, 160, 240, 256)
    costs = summary["places"]["here"]["costs"]
    assert costs["traces"]["seconds"] > costs["plaquette"]["seconds"] > 0
    assert costs["traces"]["iterations"] > 0 == costs["plaquette"]["iterations"]
    assert summary["places"]["neighbour"]["configurations"] == SETS["n_train"]
    assert 0 < summary["places"]["here"]["sampling"]["acceptance"]["value"] <= 1


def labelled(run, place="here"):
    """Features ``[chains, n, 2]`` and series of a place, read with the package's reader."""
    path = run / "ensembles" / place
    traces = Labels(path, "traces")
    x = [Labels(path, "plaquette")["plaquette"], Labels(path, "wilson")["wilson_loop_1x2"]]
    return np.stack(x, -1), {name: traces[name] for name in traces.names}


def ridge(x, y, penalty=1e-3):
    """Plain ridge on standardised features."""
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
    return lambda other: (other - mean) / std @ weights + y.mean()


FIT, HELD, BC, UL = slice(0, 9), slice(12, 15), slice(18, 38), slice(41, 71)


def test_the_corrected_value_is_that_of_its_parts(finished):
    """From the stored labels, with plain numpy: fit, scale on the held-out part, mean of A plus mean of O - A."""
    folder, summary = finished
    x, series = labelled(run_of(folder))
    y = series["trace_inverse_2"]
    a = ridge(x[:, FIT].reshape(-1, 2), y[:, FIT].ravel())(x)
    held = np.cov(y[:, HELD].ravel(), a[:, HELD].ravel())
    a = a[:, HELD].mean() + held[0, 1] / held[1, 1] * (a - a[:, HELD].mean())
    expected = np.concatenate([a[:, BC], a[:, UL]], 1).mean() + (y[:, BC] - a[:, BC]).mean()
    row = summary["surrogates"]["trace_inverse_2"]["loops"]
    assert row["scale"] == pytest.approx(held[0, 1] / held[1, 1])
    assert row["corrected"]["value"] == pytest.approx(expected, abs=1e-10)
    full = np.concatenate([y[:, BC], y[:, UL]], 1).mean()
    assert row["full"]["value"] == pytest.approx(full, abs=1e-12)
    assert row["bias"] == pytest.approx(np.concatenate([a[:, BC], a[:, UL]], 1).mean() - full, abs=1e-12)


def test_the_susceptibility_is_formed_after_the_correction(finished):
    folder, summary = finished
    x, series = labelled(run_of(folder))
    t1, t2 = (ridge(x[:, FIT].reshape(-1, 2), series[f"trace_inverse_{n}"][:, FIT].ravel())(x) for n in (1, 2))
    offset, volume = series["trace_inverse_1"][:, FIT].mean(), 16
    exact = [series["condensate_moment_1"] - offset]
    exact.append(
        series["condensate_moment_2"] - 2 * offset * series["condensate_moment_1"] + offset**2
    )
    guess = [t1 - offset, (t1 - offset) ** 2 - t2 / volume]
    row = summary["surrogates"]["susceptibility"]["loops"]
    guess = [g[:, HELD].mean() + row["scale"] * (g - g[:, HELD].mean()) for g in guess]
    m1, m2 = (
        np.concatenate([g[:, BC], g[:, UL]], 1).mean() + (e[:, BC] - g[:, BC]).mean()
        for e, g in zip(exact, guess, strict=True)
    )
    assert row["corrected"]["value"] == pytest.approx(volume * (m2 - m1**2), rel=1e-8)
    moments = [np.concatenate([s[:, BC], s[:, UL]], 1).mean() for s in exact]
    assert row["full"]["value"] == pytest.approx(volume * (moments[1] - moments[0] ** 2), rel=1e-8)


def test_a_surrogate_of_the_neighbour_is_fitted_there(finished):
    folder, summary = finished
    run = run_of(folder)
    (x, series), (here, truth) = labelled(run, "neighbour"), labelled(run)
    y = series["trace_inverse_2"]
    predict = ridge(x[:, FIT].reshape(-1, 2), y[:, FIT].ravel())
    held = np.cov(y[:, HELD].ravel(), predict(x)[:, HELD].ravel())
    centre, o = predict(x)[:, HELD].mean(), truth["trace_inverse_2"]
    a = centre + held[0, 1] / held[1, 1] * (predict(here) - centre)
    expected = np.concatenate([a[:, BC], a[:, UL]], 1).mean() + (o[:, BC] - a[:, BC]).mean()
    row = summary["surrogates"]["trace_inverse_2"]["loops, trained at neighbour"]
    assert row["corrected"]["value"] == pytest.approx(expected, abs=1e-10)


def test_a_resumed_run_gives_the_same(finished):
    folder, summary = finished
    again = surrogate({**small(folder), "resume": str(run_of(folder))}, QUIET)
    for label, rows in summary["surrogates"].items():
        for name, row in rows.items():
            assert again["surrogates"][label][name]["corrected"] == row["corrected"]


def test_its_report_is_written_again(finished):
    folder, _ = finished
    report = run_of(folder) / "report.html"
    before = report.read_bytes()
    report.unlink()
    rewrite_report(run_of(folder))
    assert report.read_bytes() == before


def test_a_run_killed_while_labelling_goes_on(finished, tmp_path):
    """Labels cut off after some steps and fits gone: the same numbers."""
    folder, summary = finished
    copy = tmp_path / "ama_su2" / "killed"
    shutil.copytree(run_of(folder), copy)
    shutil.rmtree(copy / "ensembles" / "here" / "labels" / "traces")
    shutil.rmtree(copy / "ensembles" / "neighbour")
    (copy / "summary.json").unlink()
    again = surrogate({**small(folder), "resume": str(copy)}, QUIET)
    for label, rows in summary["surrogates"].items():
        for name, row in rows.items():
            assert again["surrogates"][label][name]["corrected"] == row["corrected"]


def test_publishing(finished, tmp_path):
    folder, _ = finished
    target = tmp_path / "ama_su2"
    surrogate({**small(folder), "resume": str(run_of(folder)), "publish": str(target)}, QUIET)
    rows = json.loads((target / "results.json").read_text())
    assert [r["row"] for r in rows][:2] == ["trace_inverse_2: loops", "trace_inverse_2: loops, trained at neighbour"]
    assert all(set(r) == {"row", "parameters", "command", "summary"} for r in rows)
    assert {"uncorrected", "corrected", "full", "n_labels", "n_bc", "n_unlabelled", "r", "cost_ratio", "gain"} <= set(
        rows[0]["summary"]["correction"]
    )
    assert "cost at equal error" in (target / "README.md").read_text()
    assert (target / "figure.png").stat().st_size > 1000
    assert (target / "figure_susceptibility.png").stat().st_size > 1000


# -- networks, traces measured everywhere, stored ensembles -------------------------------------


def test_networks_on_features_and_on_links(finished, tmp_path):
    folder, _ = finished
    stored = {p: str(run_of(folder) / "ensembles" / p) for p in ("here", "neighbour")}
    regressors = {
        "mlp": {"features": LOOPS, "model": {"_target_": "lattice_lightning.methods.MLPRegressor", "epochs": 5}},
        "lcnn": {
            "features": "links", "train_on": ["here"],
            "model": {"_target_": "lattice_lightning.methods.LCNNRegressor", "layers": [2], "epochs": 2},
        },
    }
    config = small(tmp_path, **{"surrogate.stored": stored, "surrogate.regressors": regressors})
    summary = surrogate(config, QUIET)
    rows = summary["surrogates"]["trace_inverse_2"]
    assert list(rows) == ["mlp", "mlp, trained at neighbour", "lcnn"]
    assert all(abs(row["corrected_pull"]) < 5 for row in rows.values())
    assert summary["places"]["here"]["sampling"] == {}
    again = surrogate({**config, "resume": str(run_of(tmp_path))}, QUIET)
    assert again["surrogates"]["trace_inverse_2"]["lcnn"]["corrected"] == rows["lcnn"]["corrected"]
    assert again["surrogates"]["trace_inverse_2"]["mlp"]["corrected"] == rows["mlp"]["corrected"]


def test_a_trace_measured_everywhere_predicts_the_next(finished, tmp_path):
    folder, _ = finished
    stored = {p: str(run_of(folder) / "ensembles" / p) for p in ("here", "neighbour")}
    entry = {"features": [*LOOPS, "traces.trace_inverse_1"], "measured": 1, "model": RIDGE}
    changes = {"surrogate.stored": stored, "surrogate.regressors": {"from_first": entry},
               "surrogate.measured_by": "traces"}
    summary = surrogate(small(tmp_path, **changes), QUIET)
    for rows in summary["surrogates"].values():
        row = rows["from_first"]
        assert row["r"] > 0.5
        # one solve gives the first two traces: measuring the first everywhere costs as much as both
        assert row["costs"]["approximation"] >= 0.99 * row["costs"]["label"]
        assert row["cost_ratio"] is None or row["cost_ratio"] > 0.99


def test_labels_of_another_or_altered_ensemble_are_refused(finished, tmp_path):
    folder, _ = finished
    run = run_of(folder)
    copies = {p: tmp_path / p for p in ("here", "neighbour")}
    for place, path in copies.items():
        shutil.copytree(run / "ensembles" / place, path)
    stored = {place: str(path) for place, path in copies.items()}
    with pytest.raises(InputError, match=r"another ensemble than this run's:\n.*beta"):
        surrogate(small(tmp_path / "a", **{"surrogate.stored": {"neighbour": stored["here"]}}), QUIET)
    with pytest.raises(InputError, match=r"holds 15 configurations of each chain, the sets need 71"):
        surrogate(small(tmp_path / "b", **{"surrogate.stored": {"here": stored["neighbour"]}}), QUIET)
    # labels of the neighbour's ensemble moved beside this one
    shutil.rmtree(copies["here"] / "labels" / "traces")
    shutil.copytree(copies["neighbour"] / "labels" / "traces", copies["here"] / "labels" / "traces")
    with pytest.raises(InputError, match="was measured on another ensemble"):
        surrogate(small(tmp_path / "c", **{"surrogate.stored": stored}), QUIET)
    shutil.rmtree(copies["here"] / "labels" / "traces")
    changes = {"surrogate.stored": stored, "observables.traces.n_sources": 5}
    with pytest.raises(ResumeError, match="n_sources"):
        surrogate(small(tmp_path / "d", **changes), QUIET)
    assert len(Ensemble(copies["here"])) == 71


def test_one_surrogate_that_cannot_be_used_leaves_the_others(finished, tmp_path):
    folder, _ = finished
    stored = {p: str(run_of(folder) / "ensembles" / p) for p in ("here", "neighbour")}
    regressors = {
        name: {"features": list(LOOPS), "model": {**RIDGE, "ridge": penalty}}
        for name, penalty in (("loops", 1e-3), ("nothing", 1e300))
    }
    config = small(tmp_path, **{"surrogate.stored": stored, "surrogate.regressors": regressors})
    summary = surrogate(config, QUIET)
    assert all("loops" in rows and "nothing" not in rows for rows in summary["surrogates"].values())
    assert len(summary["failed"]) == 4
    assert "never varies" in summary["failed"][0]
    assert "never varies" in (run_of(tmp_path) / "report.html").read_text()


def test_a_label_without_a_usable_surrogate_leaves_the_others(finished, tmp_path):
    folder, _ = finished
    stored = {p: str(run_of(folder) / "ensembles" / p) for p in ("here", "neighbour")}
    regressors = {
        name: {"features": list(LOOPS), "labels": [label], "model": {**RIDGE, "ridge": penalty}}
        for name, label, penalty in (("loops", "trace_inverse_2", 1e-3), ("nothing", "susceptibility", 1e300))
    }
    target = tmp_path / "published"
    config = small(tmp_path, **{"surrogate.stored": stored, "surrogate.regressors": regressors})
    summary = surrogate({**config, "publish": str(target)}, QUIET)
    assert list(summary["surrogates"]) == ["trace_inverse_2"]
    assert len(summary["failed"]) == 2 and all(f.startswith("susceptibility") for f in summary["failed"])
    assert "never varies" in (run_of(tmp_path) / "report.html").read_text()
    assert json.loads((target / "results.json").read_text())[0]["row"] == "loops"


def test_the_scale_is_no_bias_of_its_own(finished):
    """The mean of an approximation that is right on the training set stays where it was."""
    _, summary = finished
    for rows in summary["surrogates"].values():
        row = rows["loops"]
        assert abs(row["bias_pull"]) < 6, row["bias_pull"]
        assert row["uncorrected"]["value"] == pytest.approx(row["full"]["value"], rel=0.5)


def test_cheaper_labels_and_the_gap_stand_beside(tmp_path):
    config = small(tmp_path)
    few = {**config["observables"]["traces"], "n_sources": 2}
    changes = {"observables.few": few, "surrogate.measured_by": "traces", "surrogate.cheaper": ["few"],
               "surrogate.train_on": {}}
    summary = surrogate(small(tmp_path, **changes), QUIET)
    run = run_of(tmp_path)
    dear, cheap = (Labels(run / "ensembles" / "here", key) for key in ("traces", "few"))
    entry = summary["cheaper"]["trace_inverse_2"]["few"]
    both = np.concatenate([cheap["trace_inverse_2"][:, BC], cheap["trace_inverse_2"][:, UL]], 1)
    assert entry["value"] == pytest.approx(both.mean())
    full = summary["surrogates"]["trace_inverse_2"]["loops"]["full"]
    name = "trace_inverse_iterations"
    share = cheap[name].mean() / dear[name].mean()
    assert share == pytest.approx(0.5, rel=0.05)
    assert entry["cost_ratio"] == pytest.approx((entry["error"] / full["error"]) ** 2 * share)
    gap = summary["gap"]
    assert gap["gap"] == 3 and gap["tau_int"] >= 0.4
    assert gap["enough"] == (3 >= 3 * gap["tau_int"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surrogate.label": "trace_inverse_3"}, "nothing measures trace_inverse_3"),
        ({"surrogate.label": "skewness"}, "nothing measures condensate_moment_3"),
        ({"surrogate.label": 3}, "must be a name or a list of names"),
        ({"surrogate.sets.gap": 0}, "gap must be an integer of at least 1"),
        ({"surrogate.every": 0}, "every must be an integer of at least 1"),
        ({"surrogate.form": "some"}, "form must be one of unlabelled, all"),
        ({"surrogate.extra": 1}, "surrogate has no key"),
        ({"surrogate.regressors.loops.features": ["trace_inverse_1"]}, "comes with the label"),
        ({"surrogate.regressors.loops.features": ["plaqette"]}, "nothing measures plaqette"),
        ({"surrogate.regressors.loops.features": ["wilsn.*"]}, "nothing measures wilsn"),
        ({"surrogate.regressors.loops.features": "links"}, "Ridge takes features, but features is 'links'"),
        ({"surrogate.regressors.loops.extra": 1}, "has no key"),
        ({"surrogate.regressors.loops.measured": 3}, "leaves nothing of trace_inverse_2 to predict"),
        ({"surrogate.regressors.loops.train_on": ["moon"]}, "there are here, neighbour"),
        ({"surrogate.regressors.loops.train_on": "here"}, "must be a list"),
        ({"surrogate.regressors.loops.labels": ["moon"]}, "there are susceptibility, trace_inverse_2"),
        ({"surrogate.train_on": {"here": {}}}, "is this run's own ensemble"),
        ({"surrogate.regressors": {}}, "regressors is empty"),
        ({"surrogate.label": "condensate", "surrogate.regressors.loops.measured": 1}, "no surrogate predicts"),
        ({"surrogate.sets.n_train": 6}, "leaves 2 steps to fit to and 1 held out"),
        ({"surrogate.sets.n_correction": 1}, "8 labels, too few for an honest"),
        ({"surrogate.sets.n_correction": 4, "stream.n_chains": 4}, "at least 5 with fewer than 8 chains"),
        ({"surrogate.cheaper": ["plaquette"]}, "nothing measures plaquette.trace_inverse_2"),
        ({"surrogate.regressors.loops": {"features": ["plaquette"]}}, "must be like"),
        ({"surrogate.regressors.loops.model": {"_target_": "os.system"}}, "_target_ must name"),
        ({"surrogate.stored": {"moon": "x"}}, "the places are"),
        ({"surrogate.stored": {"here": "/nowhere"}}, "is not an ensemble"),
    ],
)
def test_refused_before_the_first_trajectory(tmp_path, changes, message):
    with pytest.raises(Exception, match=message) as caught:
        surrogate(small(tmp_path, **changes), QUIET)
    assert isinstance(caught.value, InputError) or "not an ensemble" in message
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_too(tmp_path, capsys):
    arguments = ["train", "experiment=ama_su2", f"output_dir={tmp_path}", "surrogate.sets.n_train=0"]
    refused(arguments, "n_train must be an integer of at least", tmp_path, capsys)


def test_a_dry_run_writes_nothing(tmp_path):
    assert surrogate(small(tmp_path, dry_run=True), QUIET) == {}
    assert not list(tmp_path.iterdir())
