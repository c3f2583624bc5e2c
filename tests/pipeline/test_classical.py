"""Runs of ``classical``: sources, averages, judgement, report; refused configs write nothing."""

import json

import numpy as np
import pytest
from rich.console import Console
from small_runs import changed, composed, refused

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.classical import classical

QUIET = Console(quiet=True)
QUANTITIES = ["meson_pion_t2", "trace_inverse_1"]
LEVELS = 3


def small(folder, **changes):
    """2d SU(2), 4x4: seconds; the last of its tolerances is the exact one again."""
    return changed(
        composed("experiment=ama_classical"),
        {
            "lattice": [4, 4], "start": {"kind": "hot", "sectors": None}, "action.fermion.mass": 0.5,
            "classical.mass": 0.5, "stream.n_chains": 9, "integrator.levels.0.n_steps": 3,
            "sampling.n_thermalise": 2, "sampling.n_steps": 20, "sampling.measure_every": 2,
            "sampling.checkpoint_every": 4, "output_dir": str(folder), "classical.times": [2],
            "classical.n_sources": [4, 2], "classical.tolerances": [0.2, 1e-9],
            **changes,
        },
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classical")
    summary = classical(small(folder), QUIET)
    return folder, summary


def run_of(folder):
    (run,) = (folder / "ama_classical").iterdir()
    return run


def series_of(folder, name):
    with np.load(run_of(folder) / "histories.npz") as stored:
        pick = stored["hmc/correction_source"]
        values = [[stored[f"hmc/{name}_l{k}_s{s}"] for s in range(4)] for k in range(LEVELS)]
    return np.array(values), pick


def found(summary, name, tolerance, n):
    (one,) = [
        s for s in summary["quantities"][name]["settings"]
        if s["tolerance"] == tolerance and s["n_sources"] == n
    ]
    return one


def test_settings_and_files(finished):
    folder, summary = finished
    run = run_of(folder)
    assert json.loads((run / "summary.json").read_text()) == summary
    report = (run / "report.html").read_text()
    assert "data:image/png" in report and "tr class=\"headline\"" in report
    assert list(summary["quantities"]) == QUANTITIES
    for name in QUANTITIES:
        settings = [(s["tolerance"], s["n_sources"]) for s in summary["quantities"][name]["settings"]]
        assert settings == [(t, n) for t in (None, 0.2, 1e-9) for n in (1, 2, 4)]
    assert set(summary["observables"]) == {"plaquette"}
    assert all(value > 0 for value in summary["costs"].values())
    assert summary["costs"]["points_iterations_l1"] < summary["costs"]["points_iterations_l0"]


@pytest.mark.parametrize("name", QUANTITIES)
def test_values_are_those_of_their_parts(name, finished):
    """From the stored series, in plain numpy: one exact minus sloppy, plus the sloppy average."""
    folder, summary = finished
    values, pick = series_of(folder, name)
    assert values.shape == (LEVELS, 4, 9, 10)
    for n in (1, 2, 4):
        total = 0.0
        for chain in range(9):
            for step in range(10):
                g = int(pick[chain, step] * n)
                exact, sloppy = values[:2, :n, chain, step]
                total += exact[g] - sloppy[g] + sloppy.mean()
        one = found(summary, name, 0.2, n)
        assert one["corrected"]["value"] == pytest.approx(total / 90, rel=1e-12)
        assert one["uncorrected"]["value"] == pytest.approx(values[1, :n].mean(), rel=1e-12)
        assert one["everything"]["value"] == pytest.approx(values[0, :n].mean(), rel=1e-12)
        cost = summary["costs"]
        kind = "noise" if name == "trace_inverse_1" else "points"
        iterations = cost[f"{kind}_iterations_l0"] + n * cost[f"{kind}_iterations_l1"]
        assert one["cost"] == pytest.approx(iterations)


@pytest.mark.parametrize("name", QUANTITIES)
def test_an_exact_solver_as_the_sloppy_one_averages_all_sources(name, finished):
    _, summary = finished
    for n in (1, 2, 4):
        everything, again = found(summary, name, None, n), found(summary, name, 1e-9, n)
        assert again["corrected"]["value"] == pytest.approx(everything["corrected"]["value"], rel=1e-12)
        assert again["measured"]["value"] == pytest.approx(everything["measured"]["value"], rel=1e-9)
        assert again["correlation"]["value"] == pytest.approx(1, abs=1e-12)
        assert everything["merit_all"]["value"] == pytest.approx(1)
        assert again["cost"] == pytest.approx(everything["cost"] * (n + 1) / n)


def test_corrected_agrees_and_uncorrected_does_not(finished):
    folder, summary = finished
    assert summary["judgement"]["correction"]["ok"]
    values, _ = series_of(folder, "meson_pion_t2")
    # the same sources: the bias stands out of the noise of their difference
    difference = (values[1] - values[0]).mean(0)
    error = difference.mean(1).std(ddof=1) / 3
    assert abs(difference.mean()) > 5 * error


def test_a_resumed_run_gives_the_same(finished):
    folder, summary = finished
    again = classical({**small(folder), "resume": str(run_of(folder))}, QUIET)
    for name in QUANTITIES:
        one = [{**s, "seconds": 0} for s in summary["quantities"][name]["settings"]]
        assert [{**s, "seconds": 0} for s in again["quantities"][name]["settings"]] == one


def test_a_killed_run_goes_on(finished, tmp_path, monkeypatch):
    """Half of the steps, then a kill; the series are those of the uninterrupted run."""
    folder, _ = finished
    half = classical(small(tmp_path, **{"sampling.n_steps": 12}), QUIET)
    assert half["quantities"]
    run = run_of(tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("n_steps: 12", "n_steps: 20"))
    classical({**small(tmp_path), "resume": str(run)}, QUIET)
    for name in QUANTITIES:
        for mine, other in zip(series_of(tmp_path, name), series_of(folder, name), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_its_report_is_written_again_by_resuming(finished, capsys):
    folder, _ = finished
    refused(["report", str(run_of(folder))], "write it again with: python train.py resume=", folder, capsys)


def test_publishing(finished, tmp_path):
    folder, summary = finished
    target = tmp_path / "ama_classical"
    classical({**small(folder), "resume": str(run_of(folder)), "publish": str(target)}, QUIET)
    rows = json.loads((target / "results.json").read_text())
    assert len(rows) == 2 * LEVELS * 3
    assert all(set(r) == {"row", "parameters", "command", "summary"} for r in rows)
    assert sum(r["summary"]["best"] for r in rows) == 2
    text = (target / "README.md").read_text()
    for name in QUANTITIES:
        assert f"**{summary['quantities'][name]['best']}**" in text
    assert "chi^2" in text and (target / "figure.png").stat().st_size > 1000


BAD = [
    ({"classical.n_sources": [1]}, "must have a number above 1"),
    ({"classical.n_sources": 4}, r"must be a list like \[1, 4, 16\], got 4"),
    ({"classical.n_sources": [2, 2.5]}, "must be an integer of at least 1, got 2.5"),
    ({"classical.n_sources": [2, 17]}, "1 to 16 of them"),
    ({"classical.times": [4]}, "different ones of 0 to 3"),
    ({"classical.times": "2"}, "times must be"),
    ({"classical.times": [], "classical.trace": False}, "nothing to measure"),
    ({"classical.tolerances": [0.1, 2]}, "from the exact one, 1e-09, to 1"),
    ({"classical.tolerances": ["loose"]}, "classical cannot be made of"),
    ({"classical.mass": 0}, "mass > 0"),
    ({"classical.boundary": [1]}, "boundary needs 2 phases"),
    ({"classical.sources": 3}, "classical has no key"),
    ({"classical": {"mass": 0.5}}, "classical needs boundary, exact"),
    ({"classical": 3}, "classical must be a mapping"),
    ({"stream.n_chains": 8}, "n_chains must be at least 9, got 8"),
    ({"sampling.n_steps": 9}, "gives 4 measurements a chain"),
    ({"lattice": [4, 3], "classical.times": [1]}, "even extents"),
    ({"trainer.devices": 2}, "a run of all-mode averaging"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_refused_before_the_first_trajectory(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        classical(small(tmp_path, **changes), QUIET)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_too(tmp_path, capsys):
    arguments = ["train", "experiment=ama_classical", f"output_dir={tmp_path}", "classical.mass=-1"]
    refused(arguments, "mass > 0", tmp_path, capsys)


def test_a_dry_run_writes_nothing(tmp_path):
    assert classical(small(tmp_path, dry_run=True), QUIET) == {}
    assert not list(tmp_path.iterdir())
