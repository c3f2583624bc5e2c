"""Runs of ``surrogate``: labels, surrogates, correction, report; refused configs write nothing."""

import json

import numpy as np
import pytest
from rich.console import Console
from small_runs import changed, composed, refused

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.surrogate import surrogate

QUIET = Console(quiet=True)
LOOPS = ["plaquette", "wilson_loop_1x2"]


def small(folder, **changes):
    """2d SU(2), 4x4: seconds, with strong correlations."""
    config = composed("experiment=ama_su2")
    traces = {**config["observables"]["traces"], "n_sources": 2, "powers": [1, 2], "mass": 0.5}
    observables = {**config["observables"], "traces": traces}
    observables["wilson"] = {**observables["wilson"], "sizes": [[1, 2]]}
    return changed(
        config,
        {
            "lattice": [4, 4], "start": {"kind": "hot", "sectors": None}, "action.fermion.mass": 0.5,
            "observables": observables, "stream.n_chains": 8, "sampling.n_thermalise": 2,
            "integrator.levels.0.n_steps": 3, "output_dir": str(folder),
            "surrogate.sets": {"n_train": 10, "n_correction": 20, "n_unlabelled": 30, "gap": 3},
            "surrogate.regressors": {
                "loops": {"features": LOOPS, "model": {"_target_": "lattice_lightning.models.Ridge"}},
            },
            **changes,
        },
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surrogate")
    summary = surrogate(small(folder), QUIET)
    return folder, summary


def test_rows_figures_and_files(finished):
    folder, summary = finished
    (run,) = (folder / "ama_su2").iterdir()
    assert json.loads((run / "summary.json").read_text()) == summary
    assert "data:image/png" in (run / "report.html").read_text()
    assert list(summary["surrogates"]) == ["loops", "loops, trained at the neighbour"]
    row = summary["surrogates"]["loops"]
    assert (row["n_train"], row["n_bc"], row["n_unlabelled"]) == (80, 160, 240)
    assert summary["costs"]["label"] > 0 and summary["costs"]["label_iterations"] > 0


def test_the_corrected_value_is_that_of_its_parts(finished):
    """From the stored histories, with plain numpy: mean of A over all plus mean of O - A."""
    folder, summary = finished
    (run,) = (folder / "ama_su2").iterdir()
    with np.load(run / "histories.npz") as stored:
        names = list(stored)
        series = {n: stored[n] for n in names}
    here = {n.rpartition("/")[2]: s for n, s in series.items() if n.startswith("here")}
    x = np.stack([here[n] for n in LOOPS], -1)
    y = here["trace_inverse_2"]
    train, bc, ul = slice(0, 10), slice(13, 33), slice(36, 66)
    a, b = x[:, train].reshape(-1, 2), y[:, train].ravel()
    mean, std = a.mean(0), a.std(0)
    z = (a - mean) / std
    weights = np.linalg.solve(z.T @ z + 1e-3 * np.eye(2), z.T @ (b - b.mean()))
    guess = ((x - mean) / std) @ weights + b.mean()
    everything = np.concatenate([guess[:, bc], guess[:, ul]], 1)
    expected = everything.mean() + (y[:, bc] - guess[:, bc]).mean()
    assert summary["surrogates"]["loops"]["corrected"]["value"] == pytest.approx(expected, abs=1e-10)
    full = np.concatenate([y[:, bc], y[:, ul]], 1).mean()
    assert summary["surrogates"]["loops"]["full"]["value"] == pytest.approx(full, abs=1e-12)


def test_a_resumed_run_gives_the_same(finished):
    folder, summary = finished
    (run,) = (folder / "ama_su2").iterdir()
    again = surrogate({**small(folder), "resume": str(run)}, QUIET)
    for name, row in summary["surrogates"].items():
        assert again["surrogates"][name]["corrected"] == row["corrected"]


def test_its_report_is_written_again_by_resuming(finished, capsys):
    folder, _ = finished
    (run,) = (folder / "ama_su2").iterdir()
    refused(["report", str(run)], "write it again with: python train.py resume=", folder, capsys)


def test_publishing(finished, tmp_path):
    folder, _ = finished
    (run,) = (folder / "ama_su2").iterdir()
    target = tmp_path / "ama_su2"
    surrogate({**small(folder), "resume": str(run), "publish": str(target)}, QUIET)
    rows = json.loads((target / "results.json").read_text())
    assert [r["row"] for r in rows] == ["loops", "loops, trained at the neighbour"]
    assert all(set(r) == {"row", "parameters", "command", "summary"} for r in rows)
    assert "labelling cost" in (target / "README.md").read_text()
    assert (target / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surrogate.label": "trace_inverse_3"}, "nothing measures trace_inverse_3"),
        ({"surrogate.sets.gap": 0}, "gap must be an integer of at least 1"),
        ({"surrogate.form": "some"}, "form must be one of unlabelled, all"),
        ({"surrogate.extra": 1}, "surrogate has no key"),
        ({"surrogate.regressors.loops.features": ["trace_inverse_2"]}, "has the label"),
        ({"surrogate.regressors.loops.features": ["plaqette"]}, "nothing measures plaqette"),
        ({"surrogate.regressors.loops": {"features": ["plaquette"]}}, "must be like"),
        ({"surrogate.regressors.loops.model": {"_target_": "os.system"}}, "_target_ must name"),
    ],
)
def test_refused_before_the_first_trajectory(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        surrogate(small(tmp_path, **changes), QUIET)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_too(tmp_path, capsys):
    arguments = ["train", "experiment=ama_su2", f"output_dir={tmp_path}", "surrogate.sets.n_train=0"]
    refused(arguments, "n_train must be an integer of at least 1", tmp_path, capsys)


def test_a_dry_run_writes_nothing(tmp_path):
    assert surrogate(small(tmp_path, dry_run=True), QUIET) == {}
    assert not list(tmp_path.iterdir())
